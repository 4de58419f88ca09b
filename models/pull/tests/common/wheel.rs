//! Wheels, written byte by byte: zip archives.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

pub type Deflate = fn(&[u8]) -> Vec<u8>;

/// A wheel of these files, all stored, or all deflated by `deflate`.
pub fn wheel(files: &[(&str, &[u8])], deflate: Option<Deflate>) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let stored = deflate.map_or_else(|| content.to_vec(), |deflate| deflate(content));
        // Version, flags, method, time and date, checksum, lengths, and of the name and what else there is.
        let mut header = Vec::new();
        for short in [20, 0, if deflate.is_some() { 8 } else { 0 }, 0, 0x21] {
            header.extend(u16::to_le_bytes(short));
        }
        for long in [crc32(content), stored.len() as u32, content.len() as u32] {
            header.extend(long.to_le_bytes());
        }
        header.extend((name.len() as u16).to_le_bytes());
        header.extend([0; 2]);
        let offset = archive.len() as u32;
        archive.extend(b"PK\x03\x04");
        archive.extend(&header);
        archive.extend(name.as_bytes());
        archive.extend(stored);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(header);
        // Comment, disk, attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (offset, count) = (archive.len() as u32, (files.len() as u16).to_le_bytes());
    let length = directory.len() as u32;
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\x00\x00\x00\x00");
    archive.extend([count, count].concat());
    archive.extend(length.to_le_bytes());
    archive.extend(offset.to_le_bytes());
    archive.extend([0; 2]);
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}
