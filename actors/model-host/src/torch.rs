//! Calls to libtorch's C interface: a loaded module, its arguments and its results.
//!
//! `tch` has a module type, but frees the arguments of a call only when the call succeeds: each request for which a
//! model raises an exception would leak its inputs. Here every value frees itself. The C interface catches all C++
//! exceptions and keeps their text for [`check`]; none unwinds into Rust.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    ptr,
};

use headroom_model_protocol::{Failure, FailureKind, Scalar};
use tch::{Device, Tensor, jit, kind::Element};
use torch_sys::{
    CIValue, CModule_, at_dim, at_scalar_type, at_shape, ati_bool, ati_bool_list, ati_double,
    ati_double_list, ati_free, ati_generic_dict, ati_int, ati_int_list, ati_length, ati_none,
    ati_string, ati_string_list, ati_tag, ati_tensor, ati_tensor_list, ati_to_bool,
    ati_to_bool_list, ati_to_double, ati_to_double_list, ati_to_generic_dict, ati_to_generic_list,
    ati_to_int, ati_to_int_list, ati_to_string, ati_to_tensor, ati_to_tuple, ati_tuple,
    ati_tuple_length, atm_eval, atm_free, atm_load_on_device, atm_method_, c_generated::atg_zeros,
    get_and_reset_last_err,
};

use crate::{
    default::Default,
    failure::{failure, reason},
};

/// An error of libtorch, shortened to its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TorchError(String);

impl TorchError {
    pub(crate) fn new(text: &str) -> Self {
        Self(reason(text))
    }
}

impl From<tch::TchError> for TorchError {
    fn from(error: tch::TchError) -> Self {
        match error {
            tch::TchError::Torch(text) => Self::new(&text),
            other => Self::new(&other.to_string()),
        }
    }
}

impl From<TorchError> for Failure {
    fn from(error: TorchError) -> Self {
        failure(FailureKind::Model, error)
    }
}

/// Returns the exception of this thread's last call, if any, as an error.
fn check<T>(result: T) -> Result<T, TorchError> {
    // SAFETY: returns this thread's last error as a string made by strdup, or null. The caller owns it.
    match unsafe { take_string(get_and_reset_last_err()) } {
        Some(text) => Err(TorchError::new(&String::from_utf8_lossy(&text))),
        None => Ok(result),
    }
}

/// Copies and frees a C string; `None` for null.
///
/// # Safety
/// `text` is null, or a string made by strdup that nothing else refers to.
unsafe fn take_string(text: *mut c_char) -> Option<Vec<u8>> {
    if text.is_null() {
        return None;
    }
    // SAFETY: a C string, see above; it is copied before it is freed.
    let string = unsafe { CStr::from_ptr(text).to_bytes().to_owned() };
    // SAFETY: made by malloc (strdup), not used any more.
    unsafe { nix::libc::free(text.cast()) };
    Some(string)
}

/// Sets the number of threads and whether the graph executor optimises. To be called once, before the first operation,
/// on the thread that computes.
pub(crate) fn configure(threads: u32, optimize: bool) -> Result<(), TorchError> {
    tch::set_num_interop_threads(1);
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
    jit::f_set_graph_executor_optimize(optimize)?;
    Ok(())
}

/// A TorchScript module in memory.
#[derive(Debug)]
pub(crate) struct Module {
    /// Never null.
    raw: *mut CModule_,
}

impl Module {
    /// Loads a file.
    pub(crate) fn load(path: &str) -> Result<Self, TorchError> {
        const CPU: c_int = -1;
        let path = CString::new(path).map_err(|_| TorchError::new("the path has a zero byte"))?;
        // SAFETY: a C string that outlives the call.
        let raw = check(unsafe { atm_load_on_device(path.as_ptr(), CPU) })?;
        if raw.is_null() {
            return Err(TorchError::new("libtorch returned no module"));
        }
        let module = Self { raw };
        // Dropout and batch normalisation must not depend on how the module was saved.
        // SAFETY: the module is valid; a module without the attribute `training` is left as it is.
        check(unsafe { atm_eval(module.raw) })?;
        Ok(module)
    }

    /// Calls a method.
    pub(crate) fn call(&self, method: &CStr, arguments: &[Value]) -> Result<Value, TorchError> {
        let count = length(arguments)?;
        let raw: Vec<*mut CIValue> = arguments.iter().map(|value| value.raw).collect();
        // SAFETY: module, name and `count` argument pointers are all valid during the call, which copies what it keeps.
        Value::new(unsafe { atm_method_(self.raw, method.as_ptr(), raw.as_ptr(), count) })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: made by `atm_load_on_device`, freed once.
        unsafe { atm_free(self.raw) };
    }
}

/// An argument or a result.
#[derive(Debug)]
pub(crate) struct Value {
    /// Never null.
    raw: *mut CIValue,
}

/// The content of a [`Value`].
#[derive(Debug)]
pub(crate) enum Content {
    None,
    /// Also a float, a bool, or a list of numbers.
    Tensor(Tensor),
    Int(i64),
    /// Bytes, which need not be UTF-8. `None` if one of them is zero: libtorch's C interface gives those before it only.
    String(Option<Vec<u8>>),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// A dict, in the order of insertion.
    Entries(Vec<(Value, Value)>),
    /// A value that only TorchScript can use, such as an object.
    Other,
}

impl Value {
    fn new(raw: *mut CIValue) -> Result<Self, TorchError> {
        let raw = check(raw)?;
        if raw.is_null() {
            Err(TorchError::new("libtorch returned no value"))
        } else {
            Ok(Self { raw })
        }
    }

    /// A tensor; the value shares its memory.
    pub(crate) fn tensor(tensor: &Tensor) -> Result<Self, TorchError> {
        // SAFETY: the tensor is valid; the value takes a reference of its own and nothing is written.
        Self::new(unsafe { ati_tensor(tensor.as_ptr().cast_mut()) })
    }

    /// A plain number.
    pub(crate) fn scalar(scalar: Scalar) -> Result<Self, TorchError> {
        // SAFETY: each function takes a number.
        Self::new(unsafe {
            match scalar {
                Scalar::Int(value) => ati_int(value),
                Scalar::Float(value) => ati_double(value),
                Scalar::Bool(value) => ati_bool(value.into()),
            }
        })
    }

    /// The default of an argument.
    pub(crate) fn default(default: &Default) -> Result<Self, TorchError> {
        match default {
            // SAFETY: takes nothing.
            Default::None => Self::new(unsafe { ati_none() }),
            Default::Scalar(scalar) => Self::scalar(*scalar),
            Default::Text(text) => {
                let text = CString::new(text.as_str())
                    .map_err(|_| TorchError::new("a default has a zero byte"))?;
                Self::string(&text)
            }
            Default::Ints(ints) => Self::ints(ints),
            Default::Floats(floats) => Self::floats(floats),
        }
    }

    /// A `str`.
    pub(crate) fn string(text: &CStr) -> Result<Self, TorchError> {
        // SAFETY: a C string, which the call copies.
        Self::new(unsafe { ati_string(text.as_ptr()) })
    }

    /// A `List[str]`.
    pub(crate) fn strings(texts: &[&CStr]) -> Result<Self, TorchError> {
        let count = length(texts)?;
        let mut raw: Vec<*const c_char> = room(texts.len())?;
        raw.extend(texts.iter().map(|text| text.as_ptr()));
        // SAFETY: `count` C strings, which the call copies.
        Self::new(unsafe { ati_string_list(raw.as_ptr(), count) })
    }

    /// A `List[int]`.
    pub(crate) fn ints(values: &[i64]) -> Result<Self, TorchError> {
        // SAFETY: as many numbers as the length says; the call copies them.
        Self::new(unsafe { ati_int_list(values.as_ptr(), length(values)?) })
    }

    /// A `List[float]`.
    pub(crate) fn floats(values: &[f64]) -> Result<Self, TorchError> {
        // SAFETY: as for `ints`.
        Self::new(unsafe { ati_double_list(values.as_ptr(), length(values)?) })
    }

    /// A `List[bool]`. Each value is 0 or 1.
    pub(crate) fn bools(values: &[i8]) -> Result<Self, TorchError> {
        // SAFETY: as for `ints`; a char has one byte.
        Self::new(unsafe { ati_bool_list(values.as_ptr().cast(), length(values)?) })
    }

    /// A `List[Tensor]`; its items share the memory of the tensors.
    pub(crate) fn tensors(tensors: &[Tensor]) -> Result<Self, TorchError> {
        let raw: Vec<_> = tensors.iter().map(|it| it.as_ptr().cast_mut()).collect();
        // SAFETY: as many valid tensors as the length says; the list takes references of its own.
        Self::new(unsafe { ati_tensor_list(raw.as_ptr(), length(&raw)?) })
    }

    /// A tuple.
    pub(crate) fn tuple(items: &[Self]) -> Result<Self, TorchError> {
        let raw: Vec<_> = items.iter().map(|it| it.raw).collect();
        // SAFETY: as many valid values as the length says; the tuple copies them.
        Self::new(unsafe { ati_tuple(raw.as_ptr(), length(&raw)?) })
    }

    /// A dict of keys and values, one after the other.
    pub(crate) fn dict(entries: &[Self]) -> Result<Self, TorchError> {
        let (pairs, _) = entries.as_chunks::<2>();
        let raw: Vec<_> = pairs.iter().flatten().map(|it| it.raw).collect();
        // SAFETY: twice as many valid values as there are pairs; the dict copies them.
        Self::new(unsafe { ati_generic_dict(raw.as_ptr(), length(pairs)?) })
    }

    /// The content. The tags are those of `ati_tag` in torch-sys.
    pub(crate) fn content(&self) -> Result<Content, TorchError> {
        // For all calls below: the value is valid, the getter is the one for its tag, and an array that a getter fills
        // has as many elements as the value has items.
        let raw = self.raw;
        // SAFETY: see above; a value without a tag is an exception.
        let tag = check(unsafe { ati_tag(raw) });
        Ok(match tag {
            Ok(0) => Content::None,
            // SAFETY: see above; the tensor comes with a reference of its own, which this code owns.
            Ok(1) => Content::Tensor(unsafe { Tensor::from_ptr(check(ati_to_tensor(raw))?) }),
            // SAFETY: see above.
            Ok(2) => Content::Tensor(number(check(unsafe { ati_to_double(raw) })?)?),
            // SAFETY: see above.
            Ok(3) => Content::Int(check(unsafe { ati_to_int(raw) })?),
            // SAFETY: see above.
            Ok(4) => Content::Tensor(number(check(unsafe { ati_to_bool(raw) })? != 0)?),
            Ok(5) => {
                // SAFETY: see above.
                let len = check(unsafe { ati_tuple_length(raw) })?;
                // SAFETY: see above.
                Content::Tuple(items(len, |places| unsafe {
                    ati_to_tuple(raw, places, len)
                })?)
            }
            // SAFETY: see above.
            Ok(6) => Content::Tensor(numbers(&self.list(0i64, |places, len| unsafe {
                ati_to_int_list(raw, places, len)
            })?)?),
            // SAFETY: see above.
            Ok(7) => Content::Tensor(numbers(&self.list(0f64, |places, len| unsafe {
                ati_to_double_list(raw, places, len)
            })?)?),
            Ok(8) => {
                // SAFETY: see above.
                let bools = self.list(0 as c_char, |places, len| unsafe {
                    ati_to_bool_list(raw, places, len)
                })?;
                let bools: Vec<bool> = bools.into_iter().map(|bool| bool != 0).collect();
                Content::Tensor(numbers(&bools)?)
            }
            Ok(9) => Content::String(self.to_string()?),
            // Lists of tensors are lists too: each item becomes a value.
            Ok(10 | 12) => {
                let len = self.len()?;
                // SAFETY: see above.
                Content::List(items(len, |places| unsafe {
                    ati_to_generic_list(raw, places, len)
                })?)
            }
            Ok(13) => {
                let len = self.len()?;
                // SAFETY: see above; a dict fills two places per entry.
                let both = items(len.saturating_mul(2), |places| unsafe {
                    ati_to_generic_dict(raw, places, len)
                })?;
                let mut both = both.into_iter();
                Content::Entries(
                    std::iter::from_fn(|| Some((both.next()?, both.next()?))).collect(),
                )
            }
            Ok(_) | Err(_) => Content::Other,
        })
    }

    fn len(&self) -> Result<c_int, TorchError> {
        // SAFETY: the value is valid; another kind of value is an exception, not undefined behaviour.
        check(unsafe { ati_length(self.raw) })
    }

    fn list<T: Copy>(
        &self,
        empty: T,
        fill: impl FnOnce(*mut T, c_int),
    ) -> Result<Vec<T>, TorchError> {
        let len = self.len()?;
        let mut places = vec![empty; usize::try_from(len).unwrap_or(0)];
        fill(places.as_mut_ptr(), len);
        check(places)
    }

    fn to_string(&self) -> Result<Option<Vec<u8>>, TorchError> {
        // SAFETY: the value is valid; the string was made by strdup and belongs to the caller.
        let text = check(unsafe { ati_to_string(self.raw) })?;
        // SAFETY: see above.
        let text = unsafe { take_string(text) };
        let text = text.ok_or_else(|| TorchError::new("libtorch returned no string"))?;
        let is_whole = usize::try_from(self.len()?) == Ok(text.len());
        Ok(is_whole.then_some(text))
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: made by the C interface with `new`, freed once.
        unsafe { ati_free(self.raw) };
    }
}

/// Room for `len` items. Other allocations of Rust end the process where its bound leaves no memory for them.
pub(crate) fn room<T>(len: usize) -> Result<Vec<T>, TorchError> {
    let mut items = Vec::new();
    match items.try_reserve_exact(len) {
        Ok(()) => Ok(items),
        Err(_) => Err(TorchError::new("Could not allocate memory for an argument")),
    }
}

fn length<T>(items: &[T]) -> Result<c_int, TorchError> {
    c_int::try_from(items.len()).map_err(|_| TorchError::new("too many items"))
}

/// A tensor of zeros on the CPU. `kind` is a number of c10/core/ScalarType.h, which `tch` does not know in full.
pub(crate) fn zeros(kind: c_int, shape: &[i64]) -> Result<Tensor, TorchError> {
    const CPU: c_int = -1;
    let dimensions = length(shape)?;
    let mut raw = ptr::null_mut();
    // SAFETY: the place for one tensor, and as many sizes as there are dimensions.
    check(unsafe { atg_zeros(&mut raw, shape.as_ptr(), dimensions, kind, CPU) })?;
    if raw.is_null() {
        return Err(TorchError::new("libtorch returned no tensor"));
    }
    // SAFETY: a new tensor, which this code owns.
    Ok(unsafe { Tensor::from_ptr(raw) })
}

/// The kind of a tensor's elements, as in [`zeros`].
pub(crate) fn kind(tensor: &Tensor) -> Result<c_int, TorchError> {
    // SAFETY: the tensor is valid and nothing is written.
    check(unsafe { at_scalar_type(tensor.as_ptr().cast_mut()) })
}

/// The shape of a tensor; nested ones have none.
pub(crate) fn shape(tensor: &Tensor) -> Result<Vec<i64>, TorchError> {
    let raw = tensor.as_ptr().cast_mut();
    // SAFETY: the tensor is valid, and nothing is written to it.
    let dimensions = check(unsafe { at_dim(raw) })?;
    let mut shape = vec![0; dimensions];
    // SAFETY: see above; there is a place for each dimension.
    unsafe { at_shape(raw, shape.as_mut_ptr()) };
    check(shape)
}

/// A tensor without dimensions.
pub(crate) fn number<T: Element>(number: T) -> Result<Tensor, TorchError> {
    Ok(Tensor::f_from_slice(&[number])?.f_squeeze()?)
}

/// A tensor with one dimension.
fn numbers<T: Element>(numbers: &[T]) -> Result<Tensor, TorchError> {
    Ok(if numbers.is_empty() {
        Tensor::f_zeros([0], (T::KIND, Device::Cpu))?
    } else {
        Tensor::f_from_slice(numbers)?
    })
}

/// Lets `fill` write `len` new values and takes ownership of them, also of those written before an exception.
fn items(len: c_int, fill: impl FnOnce(*mut *mut CIValue)) -> Result<Vec<Value>, TorchError> {
    let mut places = vec![ptr::null_mut(); usize::try_from(len).unwrap_or(0)];
    fill(places.as_mut_ptr());
    let values = places
        .into_iter()
        .filter(|raw| !raw.is_null())
        .map(|raw| Value { raw })
        .collect();
    check(values)
}
