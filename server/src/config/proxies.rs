//! The proxies before the server, and how they name the client.

use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

/// Proxies before the server.
#[derive(Debug, Clone, Default, Args)]
pub struct ProxyConfig {
    /// Addresses and networks (10.0.0.0/8) of proxies that are believed which client a request comes from
    /// [default: none]
    #[arg(
        long,
        env = "ONEGEN_TRUSTED_PROXIES",
        value_name = "NETWORK",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,
    /// The header that these proxies append the client to; no other is read
    #[arg(
        long,
        env = "ONEGEN_FORWARDED_HEADER",
        value_name = "HEADER",
        default_value = "x-forwarded-for"
    )]
    pub forwarded_header: ForwardedHeader,
}

/// The header in which a proxy names its client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, of RFC 7239.
    Forwarded,
}

pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network = IpNet::from_str(text).ok();
    let network = network.or_else(|| Some(IpAddr::from_str(text).ok()?.into()));
    network.ok_or_else(|| "it is neither an address nor a network as 10.0.0.0/8".to_owned())
}
