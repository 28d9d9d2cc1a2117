//! Just enough of pickle to know a TorchScript archive before libtorch sees it.
//!
//! Two things are wanted from `data.pkl`: the class of the module, and how many bytes each tensor record must have.
//! libtorch trusts the second: a record that is shorter than declared loads, and then forward reads past its end. No
//! object is built and nothing is called; the opcodes are those that libtorch's own unpickler knows, others are errors
//! there too.

use std::{collections::HashMap, rc::Rc};

/// Values held at once, on the stack, in the memo or within tuples. A large model has some ten thousand.
const VALUES_MAX: usize = 4 << 20;

/// A tensor storage that the pickle refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    /// The record's name below `data/` or `constants/`.
    pub(crate) key: String,
    /// Bytes that libtorch will take the record to have.
    pub(crate) bytes: u64,
}

/// What a pickle says.
#[derive(Debug, Default)]
pub(crate) struct Pickle {
    /// The first class named, `module.Class`: that of the root object, when there is one.
    pub(crate) root_class: Option<String>,
    /// All storages, each as often as it is referred to.
    pub(crate) storages: Vec<Storage>,
}

/// Why a pickle cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("it ends within an instruction")]
    Truncated,
    #[error("unknown instruction 0x{0:02x}")]
    Opcode(u8),
    #[error("an instruction finds nothing on the stack")]
    Underflow,
    #[error("it has no end")]
    NoStop,
    #[error("it holds too many values")]
    TooMany,
    #[error("tensor storage is described in an unknown way")]
    Storage,
    #[error("unknown storage type `{0}`")]
    StorageType(String),
}

#[derive(Clone, Debug)]
enum Item {
    Mark,
    Text(Rc<str>),
    Class(Rc<str>),
    Int(i64),
    Tuple(Rc<[Item]>),
    /// Anything whose content is not needed.
    Other,
}

/// Reads a pickle to its end.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut machine = Machine {
        rest: bytes,
        stack: Vec::new(),
        memo: HashMap::new(),
        held: 0,
        pickle: Pickle::default(),
    };
    while machine.step()? {}
    Ok(machine.pickle)
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Item>,
    memo: HashMap<u32, Item>,
    /// Values made so far: bounds the memory, since values within tuples are shared, never copied.
    held: usize,
    pickle: Pickle,
}

impl Machine<'_> {
    /// Runs one instruction; false at the end.
    fn step(&mut self) -> Result<bool, PickleError> {
        match self.byte()? {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?),
            b'(' => self.push(Item::Mark)?,
            b')' => self.push(Item::Tuple([].into()))?,
            b'N' | 0x88 | 0x89 | b']' | b'}' => self.push(Item::Other)?,
            b'G' => {
                self.take(8)?;
                self.push(Item::Other)?;
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let int = i32::from_le_bytes(self.array()?);
                self.push(Item::Int(int.into()))?;
            }
            0x8a => self.long()?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            0x8c | b'U' => self.text(1)?,
            b'T' => self.text(4)?,
            b'c' => self.class()?,
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(flat_tuple(items))?;
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'l' | b'd' => {
                self.pop_to_mark()?;
                self.push(Item::Other)?;
            }
            // Append or set many, keeping the list or dict below the mark.
            b'e' | b'u' => drop(self.pop_to_mark()?),
            b'a' | b'0' => drop(self.pop()?),
            b's' => {
                self.pop()?;
                self.pop()?;
            }
            // NEWOBJ, REDUCE: class or function and arguments become an object. BUILD: the object stays.
            0x81 | b'R' => {
                self.pop()?;
                self.pop()?;
                self.push(Item::Other)?;
            }
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.storage(&id)?;
                self.push(Item::Other)?;
            }
            other => return Err(PickleError::Opcode(other)),
        }
        Ok(true)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], PickleError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        let (&byte, rest) = self.rest.split_first().ok_or(PickleError::NoStop)?;
        self.rest = rest;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (&array, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(array)
    }

    /// An unsigned little-endian number of `width` bytes.
    fn number(&mut self, width: usize) -> Result<u64, PickleError> {
        Ok(self
            .take(width)?
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn push(&mut self, item: Item) -> Result<(), PickleError> {
        self.held += 1;
        if self.held > VALUES_MAX {
            return Err(PickleError::TooMany);
        }
        self.stack.push(item);
        Ok(())
    }

    fn pop(&mut self) -> Result<Item, PickleError> {
        self.stack.pop().ok_or(PickleError::Underflow)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Item>, PickleError> {
        let mark = self
            .stack
            .iter()
            .rposition(|item| matches!(item, Item::Mark))
            .ok_or(PickleError::Underflow)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, len: usize) -> Result<(), PickleError> {
        let start = self
            .stack
            .len()
            .checked_sub(len)
            .ok_or(PickleError::Underflow)?;
        let items = self.stack.split_off(start);
        self.push(flat_tuple(items))
    }

    fn int(&mut self, width: usize) -> Result<(), PickleError> {
        let int = self.number(width)? as i64;
        self.push(Item::Int(int))
    }

    /// LONG1: a length, then a signed number of that many bytes.
    fn long(&mut self) -> Result<(), PickleError> {
        let width = usize::from(self.byte()?);
        if width > 8 {
            self.take(width)?;
            return self.push(Item::Other);
        }
        let number = self.number(width)?;
        let unused = 64 - 8 * width as u32;
        let int = if width == 0 {
            0
        } else {
            (number << unused) as i64 >> unused
        };
        self.push(Item::Int(int))
    }

    fn text(&mut self, width: usize) -> Result<(), PickleError> {
        let len = usize::try_from(self.number(width)?).map_err(|_| PickleError::Truncated)?;
        let text = Item::Text(String::from_utf8_lossy(self.take(len)?).into());
        self.push(text)
    }

    /// GLOBAL: module and name, each ended by a line feed.
    fn class(&mut self) -> Result<(), PickleError> {
        let (module, name) = (self.line()?, self.line()?);
        let class = format!("{module}.{name}");
        if self.pickle.root_class.is_none() {
            self.pickle.root_class = Some(class.clone());
        }
        self.push(Item::Class(class.into()))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(PickleError::Truncated)?;
        let line = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.byte()?;
        Ok(line)
    }

    fn put(&mut self, width: usize) -> Result<(), PickleError> {
        let at = self.number(width)? as u32;
        let item = self.stack.last().ok_or(PickleError::Underflow)?.clone();
        self.memo.insert(at, item);
        Ok(())
    }

    fn get(&mut self, width: usize) -> Result<(), PickleError> {
        let at = self.number(width)? as u32;
        let item = self.memo.get(&at).ok_or(PickleError::Underflow)?.clone();
        self.push(item)
    }

    /// A persistent id: `("storage", type, key, device, number of elements)`.
    fn storage(&mut self, id: &Item) -> Result<(), PickleError> {
        let Item::Tuple(id) = id else {
            return Err(PickleError::Storage);
        };
        let [
            Item::Text(kind),
            Item::Class(class),
            Item::Text(key),
            _,
            Item::Int(elements),
        ] = &id[..]
        else {
            return Err(PickleError::Storage);
        };
        if &**kind != "storage" {
            return Err(PickleError::Storage);
        }
        let size =
            element_size(class).ok_or_else(|| PickleError::StorageType(class.to_string()))?;
        let bytes = u64::try_from(*elements)
            .ok()
            .and_then(|elements| elements.checked_mul(size));
        self.pickle.storages.push(Storage {
            key: key.to_string(),
            bytes: bytes.ok_or(PickleError::Storage)?,
        });
        Ok(())
    }
}

/// A tuple without the content of tuples within it. Only flat ones are needed, and a chain of a million nested ones
/// would overflow the stack when it is dropped.
fn flat_tuple(mut items: Vec<Item>) -> Item {
    for item in &mut items {
        if matches!(item, Item::Tuple(_)) {
            *item = Item::Other;
        }
    }
    Item::Tuple(items.into())
}

fn element_size(class: &str) -> Option<u64> {
    Some(
        match class.strip_prefix("torch.")?.strip_suffix("Storage")? {
            "Bool" | "Byte" | "Char" | "QInt8" | "QUInt8" | "Untyped" => 1,
            "Float8_e5m2" | "Float8_e4m3fn" | "Float8_e5m2fnuz" | "Float8_e4m3fnuz" => 1,
            "Half" | "BFloat16" | "Short" => 2,
            "Float" | "Int" | "QInt32" => 4,
            "ComplexHalf" => 4,
            "Double" | "Long" | "ComplexFloat" => 8,
            "ComplexDouble" => 16,
            _ => return None,
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_class_and_storages() {
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
    fn deep_nesting_is_no_matter() {
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
        assert!(matches!(read(b""), Err(PickleError::NoStop)));
        assert!(matches!(read(b"\xff."), Err(PickleError::Opcode(0xff))));
        assert!(matches!(read(b"t."), Err(PickleError::Underflow)));
        assert!(matches!(
            read(b"X\xff\xff\xff\x7fab."),
            Err(PickleError::Truncated)
        ));
        assert!(matches!(read(b"\x85."), Err(PickleError::Underflow)));
    }
}
