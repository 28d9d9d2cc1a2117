//! Reads from a pickle what the check of a TorchScript archive needs.
//!
//! `data.pkl` has the class of the module and the number of bytes of each tensor record. libtorch trusts that number:
//! it loads a shorter record, and `forward` then reads past its end. This reader builds no object and calls nothing.
//! It knows the same opcodes as libtorch's own unpickler.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

/// Values of a pickle at most. A large model has some ten thousand.
const VALUES_MAX: usize = 4 << 20;

/// A tensor storage that the pickle refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// The record's name below `data/` or `constants/`.
    pub(crate) key: String,
    /// Bytes that libtorch expects in the record.
    pub(crate) bytes: u64,
}

/// The contents of a pickle that the check needs.
#[derive(Debug, Default)]
pub(crate) struct Pickle {
    /// The first class named, `module.Class`: the class of the root object.
    pub(crate) root_class: Option<String>,
    /// The storage of each reference. A storage may be there more than once.
    pub(crate) storages: Vec<Storage>,
}

/// Why a pickle cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("it ends before its STOP instruction")]
    Truncated,
    #[error("unknown instruction 0x{0:02x}")]
    Opcode(u8),
    #[error("an instruction needs a value that the stack or the memo does not have")]
    Underflow,
    #[error("it has more than {VALUES_MAX} values")]
    TooMany,
    #[error("the description of a tensor storage has an unknown form")]
    Storage,
    #[error("unknown storage type `{0}`")]
    StorageType(String),
}

#[derive(Clone, Debug)]
enum PickleValue {
    Mark,
    Text(Rc<str>),
    Class(Rc<str>),
    Int(i64),
    Tuple(Rc<[PickleValue]>),
    /// A value whose content is not needed.
    Other,
}

/// Reads a pickle to its end.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut unpickler = Unpickler {
        rest: bytes,
        stack: Vec::new(),
        memo: HashMap::new(),
        pushed: 0,
        pickle: Pickle::default(),
    };
    while unpickler.step()? {}
    Ok(unpickler.pickle)
}

struct Unpickler<'a> {
    rest: &'a [u8],
    stack: Vec<PickleValue>,
    memo: HashMap<u64, PickleValue>,
    /// Values pushed so far. This bounds the memory, because values in tuples are shared and never copied.
    pushed: usize,
    pickle: Pickle,
}

impl<'a> Unpickler<'a> {
    /// Runs one instruction. Returns false after STOP.
    fn step(&mut self) -> Result<bool, PickleError> {
        match self.take(1)?[0] {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?),
            b'(' => self.push(PickleValue::Mark)?,
            b'N' | 0x88 | 0x89 | b']' | b'}' => self.push(PickleValue::Other)?,
            b'G' => {
                self.take(8)?;
                self.push(PickleValue::Other)?;
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => self.signed_int(4)?,
            0x8a => self.long()?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            0x8c | b'U' => self.text(1)?,
            b'c' => self.class()?,
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(flat_tuple(items))?;
            }
            b'l' | b'd' => {
                self.pop_to_mark()?;
                self.push(PickleValue::Other)?;
            }
            // APPENDS, SETITEMS: the list or dict below the mark stays.
            b'e' | b'u' => drop(self.pop_to_mark()?),
            // APPEND, POP, BUILD: the list or object stays.
            b'a' | b'0' | b'b' => drop(self.pop(1)?),
            b's' => drop(self.pop(2)?),
            // NEWOBJ, REDUCE: a class or function and its arguments become an object.
            0x81 | b'R' => {
                self.pop(2)?;
                self.push(PickleValue::Other)?;
            }
            b'Q' => {
                let id = self.pop(1)?;
                self.storage(&id)?;
                self.push(PickleValue::Other)?;
            }
            other => return Err(PickleError::Opcode(other)),
        }
        Ok(true)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned little-endian number of `width` bytes.
    fn number(&mut self, width: usize) -> Result<u64, PickleError> {
        let bytes = self.take(width)?.iter().rev();
        Ok(bytes.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn push(&mut self, item: PickleValue) -> Result<(), PickleError> {
        self.pushed += 1;
        if self.pushed > VALUES_MAX {
            return Err(PickleError::TooMany);
        }
        self.stack.push(item);
        Ok(())
    }

    fn pop(&mut self, count: usize) -> Result<Vec<PickleValue>, PickleError> {
        let start = self.stack.len().checked_sub(count);
        Ok(self.stack.split_off(start.ok_or(PickleError::Underflow)?))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<PickleValue>, PickleError> {
        let mark = self
            .stack
            .iter()
            .rposition(|item| matches!(item, PickleValue::Mark))
            .ok_or(PickleError::Underflow)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, len: usize) -> Result<(), PickleError> {
        let items = self.pop(len)?;
        self.push(flat_tuple(items))
    }

    fn int(&mut self, width: usize) -> Result<(), PickleError> {
        let int = self.number(width)? as i64;
        self.push(PickleValue::Int(int))
    }

    /// A number of up to 8 bytes whose first bit is its sign.
    fn signed_int(&mut self, width: usize) -> Result<(), PickleError> {
        let unused = 64 - 8 * width as u32;
        let int = self.number(width)?.unbounded_shl(unused) as i64;
        self.push(PickleValue::Int(int.unbounded_shr(unused)))
    }

    /// LONG1: a length, then a signed number of as many bytes.
    fn long(&mut self) -> Result<(), PickleError> {
        let width = self.number(1)? as usize;
        if width > 8 {
            self.take(width)?;
            return self.push(PickleValue::Other);
        }
        self.signed_int(width)
    }

    fn text(&mut self, width: usize) -> Result<(), PickleError> {
        let len = usize::try_from(self.number(width)?).map_err(|_| PickleError::Truncated)?;
        let text = PickleValue::Text(String::from_utf8_lossy(self.take(len)?).into());
        self.push(text)
    }

    /// GLOBAL: module and name, each ended by a line feed.
    fn class(&mut self) -> Result<(), PickleError> {
        let class = format!("{}.{}", self.line()?, self.line()?);
        self.pickle.root_class.get_or_insert_with(|| class.clone());
        self.push(PickleValue::Class(class.into()))
    }

    fn line(&mut self) -> Result<Cow<'a, str>, PickleError> {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or(PickleError::Truncated)?)?;
        self.take(1)?;
        Ok(String::from_utf8_lossy(line))
    }

    fn put(&mut self, width: usize) -> Result<(), PickleError> {
        let at = self.number(width)?;
        let item = self.stack.last().ok_or(PickleError::Underflow)?.clone();
        self.memo.insert(at, item);
        Ok(())
    }

    fn get(&mut self, width: usize) -> Result<(), PickleError> {
        let at = self.number(width)?;
        let item = self.memo.get(&at).ok_or(PickleError::Underflow)?.clone();
        self.push(item)
    }

    /// A persistent id: `("storage", type, key, device, number of elements)`.
    fn storage(&mut self, id: &[PickleValue]) -> Result<(), PickleError> {
        let [PickleValue::Tuple(id)] = id else {
            return Err(PickleError::Storage);
        };
        let [
            PickleValue::Text(kind),
            PickleValue::Class(class),
            PickleValue::Text(key),
            _,
            PickleValue::Int(elements),
        ] = &id[..]
        else {
            return Err(PickleError::Storage);
        };
        let size =
            element_size(class).ok_or_else(|| PickleError::StorageType(class.to_string()))?;
        let elements = u64::try_from(*elements).ok();
        let bytes = elements
            .filter(|_| &**kind == "storage")
            .and_then(|elements| elements.checked_mul(size));
        self.pickle.storages.push(Storage {
            key: key.to_string(),
            bytes: bytes.ok_or(PickleError::Storage)?,
        });
        Ok(())
    }
}

/// A tuple whose nested tuples have no content. Only flat tuples are needed, and the drop of a million nested tuples
/// would overflow the stack.
fn flat_tuple(mut items: Vec<PickleValue>) -> PickleValue {
    for item in &mut items {
        if matches!(item, PickleValue::Tuple(_)) {
            *item = PickleValue::Other;
        }
    }
    PickleValue::Tuple(items.into())
}

fn element_size(class: &str) -> Option<u64> {
    Some(
        match class.strip_prefix("torch.")?.strip_suffix("Storage")? {
            "Bool" | "Byte" | "Char" | "QInt8" | "QUInt8" | "Untyped" => 1,
            "Float8_e5m2" | "Float8_e4m3fn" | "Float8_e5m2fnuz" | "Float8_e4m3fnuz" => 1,
            "Half" | "BFloat16" | "Short" => 2,
            "Float" | "Int" | "QInt32" | "ComplexHalf" => 4,
            "Double" | "Long" | "ComplexFloat" => 8,
            "ComplexDouble" => 16,
            _ => return None,
        },
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn class_and_storages_are_found() {
        let bytes = b"\x80\x02c__torch__.a\nM\nq\0)\x81}(X\x01\0\0\0w(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpuM\x00\x01tQub.";
        let pickle = read(bytes).unwrap();
        assert_eq!(pickle.root_class.as_deref(), Some("__torch__.a.M"));
        assert_eq!(
            pickle.storages,
            [Storage {
                key: "0".into(),
                bytes: 1024
            }]
        );
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes).ok();
        }

        #[test]
        fn any_instructions_are_read_or_refused(
            picks in prop::collection::vec(prop::sample::select(b".(N)\x88]}KMJ\x8aXUcqht\x85\x86\x87ldeua0s\x81RbQ\0\x01\n".to_vec()), 0..200),
        ) {
            read(&picks).ok();
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let mut bytes = vec![b')'];
        bytes.resize(1 << 20, 0x85);
        bytes.push(b'.');
        read(&bytes).unwrap();
    }

    #[test]
    fn negative_longs_are_negative() {
        let storage = b"((X\x07\0\0\0storagectorch\nIntStorage\nX\x01\0\0\0aN\x8a\x02\xff\xfftQ.";
        assert!(matches!(read(storage), Err(PickleError::Storage)));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(read(b""), Err(PickleError::Truncated)));
        assert!(matches!(read(b"\xff."), Err(PickleError::Opcode(0xff))));
        assert!(matches!(read(b"t."), Err(PickleError::Underflow)));
        assert!(matches!(
            read(b"X\xff\xff\xff\x7fab."),
            Err(PickleError::Truncated)
        ));
        assert!(matches!(read(b"\x85."), Err(PickleError::Underflow)));
    }
}
