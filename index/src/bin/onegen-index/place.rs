//! Where a collection is, as an argument says it: a directory, or a collection in a database.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::builder::{OsStringValueParser, TypedValueParser};
use onegen_index::{Index, RemoteAddress, RemoteCollection, RemoteOptions, Store};

/// A directory with an index, or a collection in a database.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Directory(PathBuf),
    Remote(RemoteAddress),
}

/// Reads an argument that is a [`Place`].
pub(crate) fn place() -> impl TypedValueParser<Value = Place> {
    OsStringValueParser::new().try_map(|text: OsString| match text.to_str() {
        Some(address) if RemoteAddress::is_meant(address) => address.parse().map(Place::Remote),
        _ => Ok(Place::Directory(text.into())),
    })
}

impl Place {
    /// Opens it to be searched.
    pub(crate) fn open(&self) -> Result<Store> {
        Ok(match self {
            Self::Directory(dir) => Index::open(dir)?.into(),
            Self::Remote(address) => remote(address)?.into(),
        })
    }

    /// Opens it to be changed.
    pub(crate) fn open_for_changes(&self) -> Result<Store> {
        Ok(match self {
            Self::Directory(dir) => Index::open_for_changes(dir)?.into(),
            Self::Remote(address) => remote(address)?.into(),
        })
    }
}

fn remote(address: &RemoteAddress) -> Result<RemoteCollection> {
    Ok(RemoteCollection::open(address, RemoteOptions::default())?)
}
