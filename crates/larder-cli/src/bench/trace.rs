//! [`Trace`]: accesses that somebody recorded.
//!
//! A file is one of three, told apart by what is in it: `.xz`-compressed (it begins with xz's magic
//! number), whatever is inside; text, one whole number a line, where all of the first bytes are
//! digits, blanks and line ends; and otherwise big-endian 32-bit numbers, one after the other. Empty
//! lines and lines that begin with `#` are passed over.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use lzma_rust2::XzReader;

use super::super::failure::Failure;

const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// So much is looked at to tell text from numbers.
const HEAD: usize = 1 << 10;
/// A trace is held in memory; this many accesses take 2 GB.
const LARGEST: u64 = 2 << 30;

/// Accesses in their order, to keys that are numbered as they come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) accesses: Vec<u32>,
    pub(super) keys: u32,
}

impl Trace {
    pub(super) fn read(path: &Path) -> Result<Trace, Failure> {
        let cannot =
            |why: String| Failure::usage(format!("cannot use the trace {}: {why}", path.display()));
        let raw = fs::read(path).map_err(|error| cannot(error.to_string()))?;
        let bytes = if raw.starts_with(&XZ) { unpacked(&raw).map_err(cannot)? } else { raw };
        Trace::parse(&bytes).map_err(cannot)
    }

    fn parse(bytes: &[u8]) -> Result<Trace, String> {
        if bytes.is_empty() {
            return Err("it is empty".to_owned());
        }
        let mut numbered = Numbered::default();
        if is_text(bytes) {
            lines(bytes, &mut numbered)?;
        } else {
            let (words, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(format!(
                    "it is no text, and its {} bytes are no whole number of 32-bit keys: it seems \
                     cut off",
                    bytes.len()
                ));
            }
            words.iter().for_each(|word| numbered.push(u64::from(u32::from_be_bytes(*word))));
        }
        if numbered.accesses.is_empty() {
            Err("there is no access in it".to_owned())
        } else {
            Ok(Trace { keys: numbered.numbers.len() as u32, accesses: numbered.accesses })
        }
    }
}

fn unpacked(raw: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    let mut reader = XzReader::new(raw, true).take(LARGEST + 1);
    reader.read_to_end(&mut bytes).map_err(|error| {
        format!(
            "its xz compression is damaged or cut off after {} bytes of content: {error}",
            bytes.len()
        )
    })?;
    if bytes.len() as u64 > LARGEST {
        Err("unpacked, it is larger than 2 GiB".to_owned())
    } else {
        Ok(bytes)
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD)];
    // Small keys in binary begin with zero bytes, large ones with what is no ASCII text.
    head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
        && head.iter().any(|byte| byte.is_ascii_digit())
}

fn lines(bytes: &[u8], numbered: &mut Numbered) -> Result<(), String> {
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        numbered.push(key.ok_or_else(|| {
            format!("line {} is no key: a whole number, one a line, is needed", number + 1)
        })?);
    }
    Ok(())
}

#[derive(Default)]
struct Numbered {
    accesses: Vec<u32>,
    numbers: HashMap<u64, u32>,
}

impl Numbered {
    fn push(&mut self, key: u64) {
        let next = self.numbers.len() as u32;
        self.accesses.push(*self.numbers.entry(key).or_insert(next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> (Vec<u32>, u32) {
        let trace = Trace::parse(bytes).unwrap();
        (trace.accesses, trace.keys)
    }

    #[test]
    fn text_and_numbers_are_told_apart_and_keys_numbered_as_they_come() {
        assert_eq!(
            parsed(b"# recorded\n70\n 9 \n\n70\r\n18446744073709551615"),
            (vec![0, 1, 0, 2], 3)
        );
        let words: Vec<u8> = [5_u32, 0, 5, u32::MAX].iter().flat_map(|w| w.to_be_bytes()).collect();
        assert_eq!(parsed(&words), (vec![0, 1, 0, 2], 3));
    }

    #[test]
    fn what_is_no_trace_is_told() {
        let told = |bytes: &[u8]| Trace::parse(bytes).unwrap_err();
        assert!(told(b"").contains("empty"));
        assert!(told(b"# nothing 1\n").contains("no access"));
        assert!(told(b"1\n2\nthree\n4").contains("line 3"));
        assert!(told(b"1\n-2\n").contains("line 2"));
        assert!(told(&[0, 0, 0, 1, 0]).contains("5 bytes"));
    }

    /// `printf '1\n2\n1\n' | xz`
    const PACKED: [u8; 64] = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21,
        0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x05, 0x31, 0x0a, 0x32,
        0x0a, 0x31, 0x0a, 0x00, 0x00, 0x00, 0xf9, 0x23, 0x10, 0xc7, 0x7f, 0x4b, 0x85, 0xe7, 0x00,
        0x01, 0x1e, 0x06, 0xc1, 0x2f, 0xa4, 0x1d, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00,
        0x00, 0x04, 0x59, 0x5a,
    ];

    #[test]
    fn a_packed_trace_is_read_and_one_that_is_cut_off_is_not() {
        assert_eq!(unpacked(&PACKED).unwrap(), b"1\n2\n1\n");
        for length in 6..PACKED.len() {
            let told = unpacked(&PACKED[..length]).unwrap_err();
            assert!(told.contains("damaged or cut off"), "{length}: {told}");
        }
        let mut damaged = PACKED;
        damaged[30] ^= 1;
        assert!(unpacked(&damaged).is_err());
    }
}
