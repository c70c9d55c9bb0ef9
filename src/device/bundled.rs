//! The descriptions that come with annulus.

use super::description::Device;

/// The bundled descriptions, smallest first.
const BUNDLED: [(&str, &str); 4] = [
    ("h100x8", include_str!("h100x8.toml")),
    ("h200x8", include_str!("h200x8.toml")),
    ("h200x8x8", include_str!("h200x8x8.toml")),
    ("cpu", include_str!("cpu.toml")),
];

impl Device {
    /// Names of the bundled descriptions.
    pub fn bundled() -> impl Iterator<Item = &'static str> {
        BUNDLED.iter().map(|&(name, _)| name)
    }

    /// The bundled description of that name.
    pub fn named(name: &str) -> Option<Device> {
        let (name, text) = BUNDLED.iter().find(|(n, _)| *n == name)?;
        Some(Device::parse(text, name).expect("bundled descriptions are right, as a test shows"))
    }

    /// What is taken where nobody names a device: the smallest of `h200x8` and `h200x8x8` that holds so many ranks; if
    /// none does, the larger, for its refusal to be told.
    pub fn default_for(ranks: usize) -> Device {
        let small = Device::named("h200x8").filter(|d| d.holds(ranks));
        small.or_else(|| Device::named("h200x8x8")).expect("both are bundled")
    }
}
