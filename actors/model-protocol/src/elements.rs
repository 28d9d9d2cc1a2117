//! The elements of a BYTES tensor. Each is preceded by its length: four bytes, little-endian. This is also their form in
//! the binary tensor data extension of the Open Inference Protocol.

use std::iter::FusedIterator;

/// Bytes of the length before each element.
pub const LENGTH_BYTES: usize = size_of::<u32>();

/// Why bytes are not the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementsError {
    /// The last element is longer than what is left.
    #[error("the bytes end in the middle of a string")]
    Cut,
    /// The shape makes another number of elements.
    #[error("has {found} strings, its shape makes {expected}")]
    Count {
        /// How many there are.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
    /// The length of an element does not fit into four bytes.
    #[error("a string is longer than 4 GiB")]
    TooLong,
}

/// Iterates over the elements in the bytes of a tensor. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// The elements in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], ElementsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let element = self.0.split_first_chunk().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        let (element, rest) = element.map_or((Err(ElementsError::Cut), &[][..]), |(it, rest)| {
            (Ok(it), rest)
        });
        self.0 = rest;
        Some(element)
    }
}

impl FusedIterator for Elements<'_> {}

/// Checks that `bytes` are `expected` elements.
///
/// # Errors
/// The first fault that is found.
pub fn check_elements(bytes: &[u8], expected: u64) -> Result<(), ElementsError> {
    let mut found = 0;
    for element in Elements::new(bytes) {
        element?;
        found += 1;
    }
    if found == expected {
        Ok(())
    } else {
        Err(ElementsError::Count { found, expected })
    }
}

/// Appends an element.
///
/// # Errors
/// It is too long.
pub fn push_element(bytes: &mut Vec<u8>, element: &[u8]) -> Result<(), ElementsError> {
    let length = u32::try_from(element.len()).map_err(|_| ElementsError::TooLong)?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(element);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn elements_are_read_as_they_were_written(
            elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
        ) {
            let mut bytes = Vec::new();
            for element in &elements {
                push_element(&mut bytes, element).unwrap();
            }
            let read: Vec<_> = Elements::new(&bytes).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read, elements.clone());
            prop_assert_eq!(check_elements(&bytes, elements.len() as u64), Ok(()));
            if !bytes.is_empty() {
                prop_assert!(check_elements(&bytes[..bytes.len() - 1], elements.len() as u64).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let read: Result<Vec<_>, _> = Elements::new(&bytes).collect();
            if let Ok(read) = read {
                let all: usize = read.iter().map(|it| it.len() + LENGTH_BYTES).sum();
                prop_assert_eq!(all, bytes.len());
            }
        }
    }

    #[test]
    fn another_number_of_elements_is_an_error() {
        let bytes = [0, 0, 0, 0];
        let expected = ElementsError::Count {
            found: 1,
            expected: 2,
        };
        assert_eq!(check_elements(&bytes, 2), Err(expected));
        assert_eq!(check_elements(&[], 0), Ok(()));
    }
}
