//! The examples run to their end: each compares its own results and fails if they are wrong.

#[path = "../examples/compile.rs"]
mod compile;
#[path = "../examples/device.rs"]
mod device;
#[path = "../examples/host.rs"]
mod host;

#[test]
fn compile_runs() {
    compile::main().expect("it compares with the graph itself");
}

#[test]
fn host_runs() {
    host::main().expect("it compares with the graph itself");
}

#[test]
fn device_runs() {
    device::main().expect("its devices make a difference");
}
