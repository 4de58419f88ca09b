//! Finds the address that a request comes from, also behind proxies.
//!
//! Any client can send any header. So the header is used only if the connection comes from a proxy that
//! the operator trusts, and only the part of it that trusted proxies have written. Each proxy appends
//! the address of its own client. Read from the right, the first address that is not a trusted proxy's
//! is therefore the client's.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;

use crate::config::{ForwardedHeader, ProxyConfig};

/// The address under which a request is counted and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Adds the client's address to the request, for the layers after this one.
pub(crate) async fn find(
    State(proxies): State<Arc<ProxyConfig>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    if let Some(ConnectInfo(peer)) = peer {
        let client = client(&proxies, peer.ip(), request.headers());
        request.extensions_mut().insert(ClientAddress(client));
    }
    next.run(request).await
}

/// The address of the client behind a connection from `peer`.
fn client(proxies: &ProxyConfig, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusts = |address: IpAddr| {
        let mut trusted = proxies.trusted_proxies.iter();
        trusted.any(|network| network.contains(&address))
    };
    let mut client = peer.to_canonical();
    if !trusts(client) {
        return client;
    }
    for hop in hops(proxies.forwarded_header, headers).iter().rev() {
        // An unreadable hop has no address; the proxy that passed it on is the last known client.
        let Some(address) = hop else { break };
        client = *address;
        if !trusts(client) {
            break;
        }
    }
    client
}

/// The addresses in the header, beginning with the client of the first proxy; `None` for an entry
/// that is not an address.
fn hops(header: ForwardedHeader, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let (name, parse): (_, fn(&str) -> Option<&str>) = match header {
        ForwardedHeader::XForwardedFor => ("x-forwarded-for", |hop| Some(hop)),
        ForwardedHeader::Forwarded => ("forwarded", forwarded_for),
    };
    let lines = headers.get_all(name).iter();
    let hops = lines.flat_map(|line| match line.to_str() {
        Ok(line) => line.split(',').map(parse).collect(),
        Err(_) => vec![None],
    });
    hops.map(|hop| address(hop?)).collect()
}

/// The `for` of one element of `Forwarded`. A quoted value that contains a comma or a semicolon is
/// cut there; this is harmless, because neither the whole value nor the parts are an address.
fn forwarded_for(element: &str) -> Option<&str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (_, value) = named.next()?;
    let value = value.trim();
    let quoted = value.strip_prefix('"');
    Some(quoted.map_or(value, |rest| rest.strip_suffix('"').unwrap_or(rest)))
}

/// An address with or without a port; an IPv6 address may be in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = IpAddr::from_str(bare.unwrap_or(text)).ok();
    let address = address.or_else(|| Some(SocketAddr::from_str(text).ok()?.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::network;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "::1", "fd00::/8"];
        let config = ProxyConfig {
            trusted_proxies: trusted.map(|text| network(text).unwrap()).to_vec(),
            forwarded_header: header,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            // Both headers are sent, so that a test would notice if the wrong one were read.
            let (read, other) = match header {
                ForwardedHeader::XForwardedFor => ("x-forwarded-for", "forwarded"),
                ForwardedHeader::Forwarded => ("forwarded", "x-forwarded-for"),
            };
            headers.append(read, line.parse().unwrap());
            headers.insert(other, "for=6.6.6.6".parse().unwrap());
        }
        super::client(&config, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_what_trusted_proxies_have_written_counts() {
        for (peer, lines, expected) in [
            // Only a trusted proxy's header counts.
            ("5.5.5.5", &["1.1.1.1"][..], "5.5.5.5"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            // The addresses that the client has written are left of those of the proxies.
            ("10.0.0.1", &["9.9.9.9, 1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["9.9.9.9", "1.1.1.1, 10.3.0.1"], "1.1.1.1"),
            ("10.0.0.1", &["10.9.9.9, 1.1.1.1,10.3.0.1"], "1.1.1.1"),
            // A request that a proxy itself has made.
            ("10.0.0.1", &["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            // An entry that is not an address ends the search at the last known address.
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1:4711"], "1.1.1.1"),
            ("::1", &["2001:db8::7"], "2001:db8::7"),
            ("fd00::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("fd00::1", &["[2001:db8::7]"], "2001:db8::7"),
            ("::1", &["::ffff:1.1.1.1"], "1.1.1.1"),
        ] {
            let found = client(ForwardedHeader::XForwardedFor, peer, lines);
            assert_eq!(found, expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (lines, expected) in [
            (&["for=1.1.1.1;proto=https;by=10.0.0.1"][..], "1.1.1.1"),
            (&["proto=https; For=\"[2001:db8::7]:4711\""], "2001:db8::7"),
            (&["for=9.9.9.9, for=1.1.1.1"], "1.1.1.1"),
            (
                &["for=9.9.9.9", "for=1.1.1.1, for=\"10.0.0.2:80\""],
                "1.1.1.1",
            ),
            (&["for=9.9.9.9, for=_hidden"], "10.0.0.1"),
            (&["for=9.9.9.9, by=10.0.0.1"], "10.0.0.1"),
            (&["for=\"9.9.9.9,1.1.1.1"], "10.0.0.1"),
        ] {
            let found = client(ForwardedHeader::Forwarded, "10.0.0.1", lines);
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        assert_eq!(network("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        for bad in ["", "10.0.0.0/33", "proxy.example", "10.0.0.0-10.0.0.9"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
