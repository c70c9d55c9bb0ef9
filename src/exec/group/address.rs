//! The addresses of a place, found within a limit.

use super::environment::Place;
use super::error::MeetError;
use super::meeting::Meeting;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The addresses of the place's host, each once. The system may take its time to look a name up; nobody waits for it beyond the deadline.
///
/// # Errors
/// There is none, or none in time.
pub(super) fn addresses(place: &Place, until: Instant) -> Result<Vec<IpAddr>, MeetError> {
    if let Ok(address) = place.host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let fault = |why: String| MeetError::Host { place: place.clone(), why };
    let (tell, told) = mpsc::channel();
    let (host, port) = (place.host.clone(), place.port);
    let look_up = move || {
        let found = (host.as_str(), port).to_socket_addrs();
        // Nobody listens if it took too long.
        let _ = tell.send(found.map(|all| all.map(|a| a.ip()).collect::<Vec<_>>()));
    };
    thread::Builder::new().spawn(look_up).map_err(|e| fault(e.to_string()))?;
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let found = told.recv_timeout(left).map_err(|_| fault("no answer in time".into()))?;
    let mut out: Vec<IpAddr> = vec![];
    for address in found.map_err(|e| fault(e.to_string()))? {
        if !out.contains(&address) {
            out.push(address);
        }
    }
    if out.is_empty() { Err(fault("it has no address".into())) } else { Ok(out) }
}

/// Where rank 0 listens, for each port one list: on loopback alone if that is where they meet, else on every interface, since a host may know
/// itself by another address than the others do.
///
/// # Errors
/// The host is not found, or it is not loopback and there is no token.
pub(super) fn to_listen(meeting: &Meeting, until: Instant) -> Result<Vec<IpAddr>, MeetError> {
    let named = meeting.place.host.parse::<IpAddr>().is_err() && meeting.place.host != "localhost";
    // A name that others look up: what it means here says nothing of what it means there.
    if named && meeting.token.is_some() {
        return Ok(vec![]);
    }
    let all = addresses(&meeting.place, until)?;
    let inside = all.iter().all(IpAddr::is_loopback);
    if inside {
        return Ok(all);
    }
    if meeting.token.is_none() {
        return Err(MeetError::NoToken { place: meeting.place.clone() });
    }
    Ok(vec![])
}

/// Where the others look for rank 0, address by address and port by port.
///
/// # Errors
/// The host is not found, or it is not loopback and there is no token.
pub(super) fn to_join(meeting: &Meeting, until: Instant) -> Result<Vec<SocketAddr>, MeetError> {
    let all = addresses(&meeting.place, until)?;
    if meeting.token.is_none() && !all.iter().all(IpAddr::is_loopback) {
        return Err(MeetError::NoToken { place: meeting.place.clone() });
    }
    let ports = meeting.place.port..=meeting.place.last;
    Ok(ports.flat_map(|port| all.iter().map(move |ip| SocketAddr::new(*ip, port))).collect())
}
