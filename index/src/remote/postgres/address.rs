//! Where a table of PostgreSQL is, as it is written: `postgres://user@host/db?table=wiki`.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

use crate::remote::address::without_password;
use crate::remote::calls::in_full;

/// The most bytes of a table's name: PostgreSQL cuts names after 63, and the names of its parts are made of it.
const TABLE_BYTES: usize = 40;

/// A database and a table in it.
#[derive(Clone, PartialEq)]
pub struct PostgresAddress {
    pub(super) config: Box<Config>,
    pub(super) table: String,
    /// As it was written, without a password.
    shown: String,
}

impl PostgresAddress {
    /// Reads an address that may leave its table out; it is then `table`.
    ///
    /// # Errors
    /// What is wrong with the text, and how an address is written.
    pub fn with_table(text: &str, table: &str) -> Result<Self, String> {
        let names_one = text.split_once('?').is_some_and(|(_, parameters)| {
            parameters.split('&').any(|one| one.starts_with("table="))
        });
        if names_one || !text.contains("://") {
            return text.parse();
        }
        let joint = if text.contains('?') { '&' } else { '?' };
        format!("{text}{joint}table={table}").parse()
    }

    /// The table's name: letters a to z, digits and `_`, so that it can stand in a statement as it is.
    pub fn table(&self) -> &str {
        &self.table
    }
}

impl FromStr for PostgresAddress {
    type Err = String;

    /// # Errors
    /// What is wrong with the text, and how an address is written.
    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "wanted is postgres://USER@HOST/DATABASE?table=TABLE";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wanted.to_owned());
        };
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(format!("{scheme}:// is not known; {wanted}"));
        }
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let mut table = None;
        let mut others = Vec::new();
        for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
            match parameter.strip_prefix("table=") {
                Some(name) => {
                    table = Some(percent_decode_str(name).decode_utf8_lossy().into_owned())
                }
                None => others.push(parameter),
            }
        }
        let table = table.ok_or_else(|| format!("it names no table; {wanted}"))?;
        let mut characters = table.chars();
        let begins = characters
            .next()
            .is_some_and(|c| c.is_ascii_lowercase() || c == '_');
        let is_name = begins
            && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && table.len() <= TABLE_BYTES;
        if !is_name {
            return Err(format!(
                "the table {table:?} cannot be used: a name has up to {TABLE_BYTES} letters a to z, digits and _, \
                 and begins with no digit"
            ));
        }
        let database = format!("{scheme}://{place}?{}", others.join("&"));
        let config = database
            .parse::<Config>()
            .map_err(|error| format!("{}; {wanted}", in_full(&error)))?;
        Ok(Self {
            config: Box::new(config),
            shown: without_password(&format!("postgres://{place}?table={table}")),
            table,
        })
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let address: PostgresAddress =
            "postgresql://me:secret@db.example:5433/wiki?table=pages&sslmode=disable"
                .parse()
                .unwrap();
        assert_eq!(
            address.to_string(),
            "postgres://me@db.example:5433/wiki?table=pages"
        );
        assert!(!format!("{address:?}").contains("secret"));
        assert_eq!(address.config.get_password(), Some(b"secret".as_slice()));
        assert_eq!(address.config.get_dbname(), Some("wiki"));
        assert_eq!(address.table, "pages");
    }

    #[test]
    fn an_address_that_may_leave_its_table_out_gets_one() {
        for (text, table) in [
            ("postgres://me@db/x", "ours"),
            ("postgres://me@db/x?sslmode=disable", "ours"),
            ("postgres://me@db/x?sslmode=disable&table=theirs", "theirs"),
        ] {
            let address = PostgresAddress::with_table(text, "ours").unwrap();
            assert_eq!(address.table(), table, "{text}");
        }
        let wrong = PostgresAddress::with_table("redis://db", "ours").unwrap_err();
        assert!(wrong.contains("redis:// is not known"), "{wrong}");
    }

    #[test]
    fn what_is_no_address_is_told_what_one_is() {
        for (wrong, reason) in [
            ("redis://host/wiki", "redis:// is not known"),
            ("postgres://me@host/db", "it names no table"),
            (
                "postgres://me@host/db?table=Wiki",
                "\"Wiki\" cannot be used",
            ),
            (
                "postgres://me@host/db?table=a%3Bb",
                "\"a;b\" cannot be used",
            ),
            ("postgres://me@host/db?table=", "\"\" cannot be used"),
            ("postgres://me@host:port/db?table=a", "port"),
            ("postgres://me@host/db?table=a&tabel=b", "tabel"),
        ] {
            let error = wrong.parse::<PostgresAddress>().unwrap_err();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }
}
