//! Where a collection is, as it is written: the scheme says in what kind of database.

use std::fmt;
use std::str::FromStr;

use super::milvus::MilvusAddress;
use super::postgres::PostgresAddress;

/// A database and the collection in it.
#[derive(Clone, PartialEq)]
pub enum RemoteAddress {
    /// A table of PostgreSQL with pgvector: `postgres://USER@HOST/DATABASE?table=TABLE`.
    Postgres(PostgresAddress),
    /// A collection of Milvus: `milvus://HOST:PORT/COLLECTION`.
    Milvus(MilvusAddress),
}

impl RemoteAddress {
    /// Whether a text is meant as an address, and not as a directory.
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }
}

impl FromStr for RemoteAddress {
    type Err = String;

    /// # Errors
    /// What is wrong with the text, and how an address is written.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => text.parse().map(Self::Postgres),
            Some("milvus") => text.parse().map(Self::Milvus),
            other => {
                let unknown = other.map_or(String::new(), |scheme| {
                    format!("{scheme}:// is not known; ")
                });
                Err(format!(
                    "{unknown}wanted is postgres://USER@HOST/DATABASE?table=TABLE or milvus://HOST:PORT/COLLECTION"
                ))
            }
        }
    }
}

impl fmt::Display for RemoteAddress {
    /// Without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(address) => address.fmt(f),
            Self::Milvus(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text without the password of the address in it, if there is one: `wiki=postgres://user:password@host/db`.
pub fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{user}@{host}")
        }
        None => authority.to_owned(),
    };
    let path = match path.split_once("password=") {
        Some((before, after)) => {
            let rest = after.split_once('&').map_or("", |(_, rest)| rest);
            format!("{before}{rest}")
        }
        None => path.to_owned(),
    };
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_loses_the_password_of_its_address_and_nothing_else() {
        for (text, shown) in [
            ("a=b", "a=b"),
            ("http://db/x", "http://db/x"),
            (
                "wiki=postgres://me:p@ss@db/x?table=a",
                "wiki=postgres://me@db/x?table=a",
            ),
            (
                "postgres://db/x?password=secret&table=a",
                "postgres://db/x?table=a",
            ),
            (
                "postgres://me@db?table=a&password=secret",
                "postgres://me@db?table=a&",
            ),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }

    #[test]
    fn the_scheme_says_what_kind_of_database_it_is() {
        let address = |text: &str| text.parse::<RemoteAddress>();
        assert!(matches!(
            address("postgres://db/x?table=a"),
            Ok(RemoteAddress::Postgres(_))
        ));
        assert!(matches!(
            address("milvus://db:19530/wiki"),
            Ok(RemoteAddress::Milvus(_))
        ));
        for (wrong, reason) in [
            ("redis://db", "redis:// is not known"),
            ("wiki", "wanted is"),
        ] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
