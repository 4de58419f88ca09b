//! The write-ahead log: changes that are acknowledged and not yet in a segment.
//!
//! ```text
//! header (256 bytes):
//!   magic, index id, number, blake3 of these       (96 bytes)
//!   two slots: acknowledged length, its checksum   (64 bytes each)
//! frames, one for each batch of changes:
//!   length (u32), checksum (16 bytes), payload
//! ```
//!
//! **Invariant:** up to the acknowledged length everything must be intact, or the log is refused.
//! Beyond it anything may be torn, because it was never acknowledged. A batch is written and synced
//! first, then the acknowledged length, and only then does the caller get its answer. Checksums
//! include the index's id, the log's number and the frame's place, so a frame from another place is
//! not accepted.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::format::tracked::sync_dir;

const MAGIC: &[u8; 16] = b"onegen changes\x02\n";
const HEADER: usize = 256;
const SLOTS: [usize; 2] = [96, 160];
const SLOT: usize = 8 + CHECKSUM;
const CHECKSUM: usize = 16;
const FRAME: usize = 4 + CHECKSUM;

/// Path of the log with a number, in the directory of its index.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("changes-{number:06}.log"))
}

/// A log that grows.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    identity: Identity,
    end: u64,
    slot: usize,
    failed: bool,
}

/// What a log holds.
pub(crate) struct Replay {
    /// The batches, in order.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Where the last whole batch ends.
    end: u64,
    /// Bytes after `end` that a crash has left. They were never acknowledged.
    pub(crate) torn: u64,
}

/// The part that all checksums of a log include.
#[derive(Clone)]
struct Identity {
    index_id: String,
    number: u64,
}

impl Identity {
    fn checksum(&self, place: u64, content: &[u8]) -> [u8; CHECKSUM] {
        let mut checksum = [0; CHECKSUM];
        blake3::Hasher::new()
            .update(self.index_id.as_bytes())
            .update(&self.number.to_le_bytes())
            .update(&place.to_le_bytes())
            .update(content)
            .finalize_xof()
            .fill(&mut checksum);
        checksum
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..16].copy_from_slice(MAGIC);
        for (byte, id) in header[16..48].iter_mut().zip(self.index_id.bytes()) {
            *byte = id;
        }
        header[48..56].copy_from_slice(&self.number.to_le_bytes());
        let hash = blake3::hash(&header[..64]);
        header[64..96].copy_from_slice(hash.as_bytes());
        for slot in SLOTS {
            header[slot..slot + SLOT].copy_from_slice(&self.slot(slot, HEADER as u64));
        }
        header
    }

    fn slot(&self, at: usize, acknowledged: u64) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&acknowledged.to_le_bytes());
        slot[8..].copy_from_slice(&self.checksum(at as u64, &acknowledged.to_le_bytes()));
        slot
    }
}

impl Log {
    /// Creates an empty log and syncs it to the disk.
    pub(crate) fn create(dir: &Path, index_id: &str, number: u64) -> Result<Self, IndexError> {
        let path = path(dir, number);
        let identity = Identity {
            index_id: index_id.into(),
            number,
        };
        let mut file = File::create_new(&path).map_err(IndexError::io("create", &path))?;
        let written = file
            .write_all(&identity.header())
            .map_err(IndexError::io("write", &path))
            .and_then(|()| file.sync_all().map_err(IndexError::io("sync", &path)))
            .and_then(|()| sync_dir(dir));
        written.inspect_err(|_| {
            // No manifest names the file yet. If it cannot be removed now, it is removed when the
            // index is next opened.
            let _ = fs::remove_file(&path);
        })?;
        Ok(Self {
            path,
            file,
            identity,
            end: HEADER as u64,
            slot: 0,
            failed: false,
        })
    }

    /// Continues a log after its last whole batch and cuts off torn bytes.
    pub(crate) fn go_on(
        dir: &Path,
        index_id: &str,
        number: u64,
        replay: &Replay,
    ) -> Result<Self, IndexError> {
        let path = path(dir, number);
        let file = File::options()
            .write(true)
            .open(&path)
            .map_err(IndexError::io("open", &path))?;
        file.set_len(replay.end)
            .map_err(IndexError::io("cut back", &path))?;
        let identity = Identity {
            index_id: index_id.into(),
            number,
        };
        let mut log = Self {
            path,
            file,
            identity,
            end: replay.end,
            slot: 0,
            failed: false,
        };
        // Replayed batches count as acknowledged from now on, so they must be on the disk.
        log.sync()?;
        log.acknowledge()?;
        log.acknowledge()?;
        Ok(log)
    }

    /// Writes batches and syncs them to the disk. If the disk is full, they are cut off again, and the log
    /// accepts others. If it fails for another reason, the log accepts no more batches, because it is
    /// then unknown what the disk holds, and a log must not have holes.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<(), IndexError> {
        self.check_usable()?;
        let mut frames = Vec::new();
        for payload in payloads {
            let place = self.end + frames.len() as u64;
            let length = u32::try_from(payload.len()).map_err(|_| IndexError::TooLarge {
                what: "bytes in one batch of changes",
                limit: u32::MAX.into(),
            })?;
            frames.extend(length.to_le_bytes());
            frames.extend(self.identity.checksum(place, payload));
            frames.extend(payload);
        }
        let written = self.write_frames(&frames);
        if let Err(error) = &written {
            // The batch was not acknowledged. If cutting it off fails too, the next opening of the
            // log cuts it off.
            let cut_off = self.file.set_len(self.end);
            let full = matches!(error, IndexError::Io { source, .. } if is_full(source));
            self.failed |= cut_off.is_err() || !full;
        }
        written
    }

    fn write_frames(&mut self, frames: &[u8]) -> Result<(), IndexError> {
        self.file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(frames))
            .map_err(IndexError::io("write", &self.path))?;
        self.sync()?;
        let before = self.end;
        self.end += frames.len() as u64;
        self.acknowledge().inspect_err(|_| self.end = before)
    }

    fn acknowledge(&mut self) -> Result<(), IndexError> {
        let at = SLOTS[self.slot];
        self.slot = 1 - self.slot;
        // The next sync brings this to the disk. It survives a killed process without a sync.
        self.file
            .seek(SeekFrom::Start(at as u64))
            .and_then(|_| self.file.write_all(&self.identity.slot(at, self.end)))
            .map_err(IndexError::io("write", &self.path))
    }

    fn check_usable(&self) -> Result<(), IndexError> {
        if !self.failed {
            return Ok(());
        }
        let reason = "an earlier write failed; close the index and open it again";
        Err(IndexError::io("write", &self.path)(io::Error::other(
            reason,
        )))
    }

    /// Syncs everything to the disk. It also fails if an earlier write has failed.
    pub(crate) fn sync(&mut self) -> Result<(), IndexError> {
        self.check_usable()?;
        // After a failed sync the next sync can succeed although data was lost.
        let synced = self.file.sync_data();
        // What was synced before is on the disk, also if there is no room for more.
        self.failed = synced.as_ref().is_err_and(|error| !is_full(error));
        synced.map_err(IndexError::io("sync", &self.path))
    }
}

/// Whether there was no room: all that was written before is then as it was.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Reads the log with a number and verifies it.
pub(crate) fn read(dir: &Path, index_id: &str, number: u64) -> Result<Replay, IndexError> {
    let path = path(dir, number);
    let identity = Identity {
        index_id: index_id.into(),
        number,
    };
    let read = || fs::read(&path).map_err(IndexError::io("read", &path));
    replay_settled(read, &identity)?.map_err(|reason| IndexError::damaged(&path, reason))
}

/// Replays the bytes that `read` returns. If another process may have been writing while they were
/// read, it reads them again.
fn replay_settled(
    mut read: impl FnMut() -> Result<Vec<u8>, IndexError>,
    identity: &Identity,
) -> Result<Result<Replay, String>, IndexError> {
    let mut bytes = read()?;
    loop {
        let replay = replay(&bytes, identity);
        if replay.is_ok() {
            return Ok(replay);
        }
        let again = read()?;
        if again == bytes {
            return Ok(replay);
        }
        bytes = again;
    }
}

fn replay(bytes: &[u8], identity: &Identity) -> Result<Replay, String> {
    let acknowledged = acknowledged(bytes, identity)?;
    let mut payloads = Vec::new();
    let mut end = HEADER;
    while let Some(payload) = frame(bytes, end, identity) {
        payloads.push(payload.to_vec());
        end += FRAME + payload.len();
    }
    if (end as u64) < acknowledged {
        return Err(format!(
            "the change at byte {end} is damaged or cut off, of {acknowledged} bytes that were acknowledged"
        ));
    }
    Ok(Replay {
        payloads,
        end: end as u64,
        torn: (bytes.len() - end) as u64,
    })
}

/// The acknowledged length, from a verified header.
fn acknowledged(bytes: &[u8], identity: &Identity) -> Result<u64, String> {
    let Some(header) = bytes.get(..HEADER) else {
        return Err("it is shorter than its header".into());
    };
    let wanted = identity.header();
    if header[..16] != wanted[..16] {
        return Err("it is not a log of changes of this version".into());
    }
    if header[..96] != wanted[..96] {
        return Err("it belongs to another index, or its header is damaged".into());
    }
    let mut acknowledged = 0;
    for at in SLOTS {
        let (length, _) = header[at..].as_chunks::<8>();
        let length = u64::from_le_bytes(length[0]);
        if header[at..at + SLOT] != identity.slot(at, length) {
            return Err("its acknowledged length is damaged".into());
        }
        acknowledged = acknowledged.max(length);
    }
    let unused = header[SLOTS[0] + SLOT..SLOTS[1]]
        .iter()
        .chain(&header[SLOTS[1] + SLOT..]);
    if unused.into_iter().all(|&byte| byte == 0) {
        Ok(acknowledged)
    } else {
        Err("its header is damaged".into())
    }
}

/// The payload of the frame at `place`, if there is a whole one.
fn frame<'b>(bytes: &'b [u8], place: usize, identity: &Identity) -> Option<&'b [u8]> {
    let frame = bytes.get(place..)?;
    let (length, rest) = frame.split_at_checked(4)?;
    let (checksum, rest) = rest.split_at_checked(CHECKSUM)?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    let payload = rest.get(..length as usize)?;
    (identity.checksum(place as u64, payload) == checksum).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn written(dir: &Path, payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut log = Log::create(dir, ID, 1).unwrap();
        for payload in payloads {
            log.append(std::slice::from_ref(payload)).unwrap();
        }
        fs::read(path(dir, 1)).unwrap()
    }

    #[test]
    fn what_is_torn_beyond_the_acknowledged_length_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = written(dir.path(), &[b"one".into(), b"two".into()]);
        bytes.extend(b"half a fra");
        fs::write(path(dir.path(), 1), &bytes).unwrap();
        let replay = read(dir.path(), ID, 1).unwrap();
        assert_eq!(replay.payloads, [b"one", b"two"]);
        assert_eq!(replay.torn, 10);
        let mut log = Log::go_on(dir.path(), ID, 1, &replay).unwrap();
        log.append(&[b"three".into()]).unwrap();
        let replay = read(dir.path(), ID, 1).unwrap();
        assert_eq!(replay.payloads, [&b"one"[..], b"two", b"three"]);
        assert_eq!(replay.torn, 0);
    }

    #[test]
    fn a_log_of_another_index_or_number_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), &[b"one".into()]);
        assert!(read(dir.path(), &ID.replace('0', "1"), 1).is_err());
        fs::rename(path(dir.path(), 1), path(dir.path(), 2)).unwrap();
        let error = read(dir.path(), ID, 2).err().unwrap().to_string();
        assert!(error.contains("changes-000002.log"), "{error}");
    }

    #[test]
    fn a_log_that_was_read_while_it_was_written_to_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let whole = written(dir.path(), &[b"one".into()]);
        let mut halfway = whole.clone();
        halfway[SLOTS[0]] ^= 1;
        let identity = Identity {
            index_id: ID.into(),
            number: 1,
        };
        let mut reads = vec![whole, halfway.clone()];
        let read = || Ok(reads.pop().unwrap());
        let replay = replay_settled(read, &identity).unwrap().ok().unwrap();
        assert_eq!(replay.payloads, [b"one"]);
        assert!(reads.is_empty());
        let damaged = replay_settled(|| Ok(halfway.clone()), &identity).unwrap();
        assert!(damaged.is_err());
    }

    proptest! {
        #[test]
        fn any_change_of_what_was_acknowledged_is_noticed(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
            cut in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let bytes = written(dir.path(), &payloads);
            let at = at.index(bytes.len());
            let mut changed = bytes.clone();
            if cut { changed.truncate(at) } else { changed[at] ^= 1 << bit }
            fs::write(path(dir.path(), 1), &changed).unwrap();
            match read(dir.path(), ID, 1) {
                Ok(replay) => prop_assert!(false, "byte {} of {}: {:?}", at, bytes.len(), replay.payloads),
                Err(error) => prop_assert!(error.to_string().contains("changes-000001.log")),
            }
        }
    }
}
