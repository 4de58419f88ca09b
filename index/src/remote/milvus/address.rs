//! Where a collection of Milvus is, as it is written: `milvus://user@host:19530/wiki`.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// Milvus's own port.
const PORT: u16 = 19_530;
/// The most bytes of a collection's name in Milvus.
const NAME_BYTES: usize = 255;

/// A Milvus server and a collection in it.
#[derive(Clone, PartialEq)]
pub struct MilvusAddress {
    /// `host:port`, as in a URL.
    pub(super) authority: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// The database of the server; the default one where it is empty.
    pub(super) database: String,
    pub(super) collection: String,
    /// Whether the connection is over TLS.
    pub(super) tls: bool,
    pub(super) consistency: Consistency,
}

/// What searches see of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    /// All changes that were acknowledged, whoever made them. Milvus waits for its next time tick.
    Strong,
    /// All changes that were made over this connection, and those of others a moment later. Milvus does not wait.
    Session,
}

impl FromStr for MilvusAddress {
    type Err = String;

    /// # Errors
    /// What is wrong with the text, and how an address is written.
    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "wanted is milvus://HOST:PORT/COLLECTION, or milvus://USER:PASSWORD@HOST:PORT/COLLECTION?db=DB&tls=on&consistency=session";
        let rest = text.strip_prefix("milvus://").ok_or(wanted)?;
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, collection) = place.split_once('/').unwrap_or((place, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, authority),
        };
        let (user, password) =
            match credentials.map(|both| both.split_once(':').unwrap_or((both, ""))) {
                Some((user, password)) => (
                    Some(decoded(user)),
                    (!password.is_empty()).then(|| decoded(password)),
                ),
                None => (None, None),
            };
        let (name, port) = match host.rsplit_once(':') {
            // The colons in the brackets of an IPv6 address end with one.
            Some((name, port)) if !port.ends_with(']') => {
                let number = port.parse::<u16>();
                (
                    name,
                    number.map_err(|_| format!("the port is {port:?}; {wanted}"))?,
                )
            }
            _ => (host, PORT),
        };
        if name.is_empty() {
            return Err(format!("it names no host; {wanted}"));
        }
        let mut address = Self {
            authority: format!("{name}:{port}"),
            user,
            password,
            database: String::new(),
            collection: checked_name("collection", collection)
                .map_err(|what| format!("{what}; {wanted}"))?,
            tls: false,
            consistency: Consistency::Strong,
        };
        for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
            match parameter.split_once('=') {
                Some(("db", name)) => address.database = checked_name("database", name)?,
                Some(("tls", "on")) => address.tls = true,
                Some(("tls", "off")) => address.tls = false,
                Some(("consistency", "strong")) => address.consistency = Consistency::Strong,
                Some(("consistency", "session")) => address.consistency = Consistency::Session,
                _ => return Err(format!("{parameter:?} is not known; {wanted}")),
            }
        }
        Ok(address)
    }
}

/// A name as Milvus takes them.
fn checked_name(of: &str, name: &str) -> Result<String, String> {
    let mut characters = name.chars();
    let begins = characters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let is_name = begins
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= NAME_BYTES;
    match is_name {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "the {of} {name:?} cannot be used: a name has up to {NAME_BYTES} letters a to z, digits and _, and begins \
             with no digit"
        )),
    }
}

impl fmt::Display for MilvusAddress {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("milvus://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}/{}", self.authority, self.collection)?;
        if !self.database.is_empty() {
            write!(f, "?db={}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for MilvusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address: MilvusAddress = "milvus://me:se%40cret@db.example/wiki?db=books&tls=on"
            .parse()
            .unwrap();
        assert_eq!(
            address.to_string(),
            "milvus://me@db.example:19530/wiki?db=books"
        );
        assert_eq!(address.password.as_deref(), Some("se@cret"));
        assert!(address.tls);
        assert!(!format!("{address:?}").contains("cret"));
        let address: MilvusAddress = "milvus://[::1]:2000/a_1".parse().unwrap();
        assert_eq!(address.to_string(), "milvus://[::1]:2000/a_1");
        let address: MilvusAddress = "milvus://[::1]/a".parse().unwrap();
        assert_eq!(address.authority, "[::1]:19530");
    }

    #[test]
    fn what_is_no_address_is_told_what_one_is() {
        for (wrong, reason) in [
            ("http://host/wiki", "wanted is milvus://"),
            ("milvus://host", "the collection \"\" cannot be used"),
            ("milvus://host/1", "begins with no digit"),
            ("milvus://host/a-b", "\"a-b\" cannot be used"),
            ("milvus:///wiki", "it names no host"),
            ("milvus://host:x/wiki", "the port is \"x\""),
            ("milvus://host/wiki?tls=maybe", "\"tls=maybe\" is not known"),
            ("milvus://host/wiki?db=a;b", "the database"),
            ("milvus://host/wiki?consistency=bounded", "is not known"),
        ] {
            let error = wrong.parse::<MilvusAddress>().unwrap_err();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }
}
