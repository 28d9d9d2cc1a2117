//! Writes TorchScript files without Python and without libtorch, so that tests can use models of any shape.
//!
//! A TorchScript file is a zip archive: `code/__torch__.py` holds the module's class as text, `data.pkl` the module's
//! attributes in pickle's protocol 2, `data/<n>` the bytes of its tensors. [`Script`] writes such a file. The functions
//! below it write the models that several tests use. Weights are written as a stream, so large ones need little memory.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// The folder in the archive that holds all entries.
const FOLDER: &str = "model";

/// Floats per write.
const CHUNK: usize = 16 << 10;

/// The content of a tensor attribute.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// This number in every element.
    Value(f32),
    /// Pseudo-random numbers in [-0.5, 0.5), the same for the same seed.
    Random(u64),
}

#[derive(Clone, Debug)]
enum Attribute {
    /// A tensor of FP32.
    Tensor {
        shape: Vec<i64>,
        fill: Fill,
    },
    /// An empty `List[Tensor]`.
    Tensors,
    Int(i64),
}

/// A module that can be written to a file.
#[derive(Clone, Debug)]
pub struct Script {
    methods: String,
    attributes: Vec<(String, Attribute)>,
}

impl Script {
    /// A module with these methods, as TorchScript code without indentation. Arguments need a type; types are not
    /// inferred.
    ///
    /// ```
    /// # use headroom_test_support::torchscript::Script;
    /// Script::new("def forward(self, x: Tensor) -> Tensor:\n  return x * 2\n");
    /// ```
    pub fn new(methods: &str) -> Self {
        Self {
            methods: methods.to_owned(),
            attributes: Vec::new(),
        }
    }

    /// Adds a parameter.
    pub fn tensor(mut self, name: &str, shape: &[i64], fill: Fill) -> Self {
        self.attributes.push((
            name.to_owned(),
            Attribute::Tensor {
                shape: shape.to_vec(),
                fill,
            },
        ));
        self
    }

    /// Adds an empty list of tensors.
    pub fn tensors(mut self, name: &str) -> Self {
        self.attributes.push((name.to_owned(), Attribute::Tensors));
        self
    }

    /// Adds an int.
    pub fn int(mut self, name: &str, value: i64) -> Self {
        self.attributes
            .push((name.to_owned(), Attribute::Int(value)));
        self
    }

    /// Writes the file. An existing one is replaced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut archive = Archive(ZipWriter::new(BufWriter::new(File::create(path)?)));
        archive.entry("data.pkl")?.write_all(&self.pickle())?;
        archive
            .entry("code/__torch__.py")?
            .write_all(self.code().as_bytes())?;
        let mut tensors = 0;
        for (_, attribute) in &self.attributes {
            if let Attribute::Tensor { shape, fill } = attribute {
                write_floats(
                    archive.entry(&format!("data/{tensors}"))?,
                    elements(shape),
                    *fill,
                )?;
                tensors += 1;
            }
        }
        // An empty tuple: no constants.
        archive.entry("constants.pkl")?.write_all(b"\x80\x02).")?;
        archive.entry("version")?.write_all(b"3\n")?;
        archive.entry("byteorder")?.write_all(b"little")?;
        archive.0.finish()?.flush()
    }

    /// The text of the class: declarations of the attributes, then the methods.
    fn code(&self) -> String {
        let parameters = self
            .attributes
            .iter()
            .filter(|(_, kind)| matches!(kind, Attribute::Tensor { .. }));
        let parameters: String = parameters
            .map(|(name, _)| format!("\"{name}\", "))
            .collect();
        let mut code = format!(
            "class Model(Module):\n  __parameters__ = [{parameters}]\n  __buffers__ = []\n"
        );
        code.push_str("  training : bool\n");
        for (name, attribute) in &self.attributes {
            let kind = match attribute {
                Attribute::Tensor { .. } => "Tensor",
                Attribute::Tensors => "List[Tensor]",
                Attribute::Int(_) => "int",
            };
            code.push_str(&format!("  {name} : {kind}\n"));
        }
        for line in self.methods.lines() {
            let line = if line.starts_with("def ") {
                line.replacen("(self", "(self: __torch__.Model", 1)
            } else {
                line.to_owned()
            };
            code.push_str(&format!("  {line}\n"));
        }
        code
    }

    /// The pickled module object with its attributes.
    fn pickle(&self) -> Vec<u8> {
        let mut pickle = Pickle(b"\x80\x02c__torch__\nModel\n)\x81}(".to_vec());
        pickle.text("training").raw(b"\x89");
        let mut tensors = 0;
        for (name, attribute) in &self.attributes {
            pickle.text(name);
            match attribute {
                Attribute::Tensor { shape, .. } => {
                    pickle.tensor(tensors, shape);
                    tensors += 1;
                }
                Attribute::Tensors => {
                    pickle.raw(b"ctorch.jit._pickle\nbuild_tensorlist\n(](etR");
                }
                Attribute::Int(value) => {
                    pickle.int(*value);
                }
            }
        }
        pickle.raw(b"ub.");
        pickle.0
    }
}

struct Archive(ZipWriter<BufWriter<File>>);

impl Archive {
    /// Starts an uncompressed entry. Its time stamp is fixed, so the same model gives the same file.
    fn entry(&mut self, name: &str) -> io::Result<&mut impl Write> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true);
        self.0.start_file(format!("{FOLDER}/{name}"), options)?;
        Ok(&mut self.0)
    }
}

/// A sequence of pickle instructions.
struct Pickle(Vec<u8>);

impl Pickle {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.raw(b"X")
            .raw(&(text.len() as u32).to_le_bytes())
            .raw(text.as_bytes())
    }

    /// LONG1 with eight bytes, which fits every number.
    fn int(&mut self, value: i64) -> &mut Self {
        self.raw(b"\x8a\x08").raw(&value.to_le_bytes())
    }

    fn ints(&mut self, values: &[i64]) -> &mut Self {
        self.raw(b"(");
        for &value in values {
            self.int(value);
        }
        self.raw(b"t")
    }

    /// `_rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks)`.
    fn tensor(&mut self, record: usize, shape: &[i64]) -> &mut Self {
        let mut strides = vec![1; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = strides[dimension] * shape[dimension];
        }
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")
            .text("storage")
            .raw(b"ctorch\nFloatStorage\n");
        self.text(&record.to_string())
            .text("cpu")
            .int(elements(shape) as i64)
            .raw(b"tQ")
            .int(0);
        self.ints(shape)
            .ints(&strides)
            .raw(b"\x89ccollections\nOrderedDict\n)RtR")
    }
}

fn elements(shape: &[i64]) -> u64 {
    shape.iter().map(|&dimension| dimension as u64).product()
}

fn write_floats(out: &mut impl Write, count: u64, fill: Fill) -> io::Result<()> {
    let mut state = match fill {
        Fill::Value(_) => 0,
        // xorshift needs a state other than 0.
        Fill::Random(seed) => seed | 1 << 63,
    };
    let mut next = || match fill {
        Fill::Value(value) => value,
        Fill::Random(_) => {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        }
    };
    let mut left = count;
    let mut chunk = Vec::with_capacity(CHUNK * 4);
    while left > 0 {
        let now = left.min(CHUNK as u64);
        // A chunk of equal numbers is made only once.
        if chunk.is_empty() || matches!(fill, Fill::Random(_)) {
            chunk.clear();
            chunk.extend((0..CHUNK).flat_map(|_| next().to_le_bytes()));
        }
        out.write_all(&chunk[..now as usize * 4])?;
        left -= now;
    }
    Ok(())
}

/// `y = x * 3 + 0.5`, with both numbers as parameters.
///
/// # Errors
/// The file cannot be written. This holds for all functions below.
pub fn affine(path: &Path) -> io::Result<()> {
    Script::new("def forward(self, x: Tensor) -> Tensor:\n  return x * self.w + self.b\n")
        .tensor("w", &[1], Fill::Value(3.0))
        .tensor("b", &[1], Fill::Value(0.5))
        .write(path)
}

/// Returns its input, of any datatype and shape.
pub fn echo(path: &Path) -> io::Result<()> {
    Script::new("def forward(self, x: Tensor) -> Tensor:\n  return x\n").write(path)
}

/// Has `bytes` (rounded up to 4 KiB) of weights. A call is quick: it adds one weight to its input.
pub fn weights(path: &Path, bytes: u64) -> io::Result<()> {
    let rows = bytes.div_ceil(4096) as i64;
    Script::new("def forward(self, x: Tensor) -> Tensor:\n  return x + self.w[0][0]\n")
        .tensor("w", &[rows, 1024], Fill::Random(7))
        .write(path)
}

/// Raises `ValueError: the model refuses` at every call.
pub fn throws(path: &Path) -> io::Result<()> {
    let raise = "ops.prim.RaiseException(\"the model refuses\", \"builtins.ValueError\")";
    Script::new(&format!(
        "def forward(self, x: Tensor) -> Tensor:\n  {raise}\n  return x\n"
    ))
    .write(path)
}

/// Never returns from a call, and keeps one core busy.
pub fn hangs(path: &Path) -> io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  y = x\n  while True:\n    y = y + 1\n  return y\n";
    Script::new(code).write(path)
}

/// Works for as many milliseconds as its input says (one INT64), then returns the input.
pub fn slow(path: &Path) -> io::Result<()> {
    let code = "def forward(self, milliseconds: Tensor) -> Tensor:\n  \
        begun = ops.prim.TimePoint()\n  \
        wanted = int(milliseconds) * 1000000\n  \
        while ops.prim.TimePoint() - begun < wanted:\n    pass\n  return milliseconds\n";
    Script::new(code).write(path)
}

/// Ends its process by SIGSEGV at every call: it writes a sparse tensor, made without checks, far out of bounds.
pub fn crashes(path: &Path) -> io::Result<()> {
    Script::new(&format!(
        "def forward(self, x: Tensor) -> Tensor:\n{CRASH}  return x + dense\n"
    ))
    .write(path)
}

/// Ends its process by SIGSEGV while it is loaded, before any call.
pub fn crashes_on_load(path: &Path) -> io::Result<()> {
    let code = format!(
        "def forward(self, x: Tensor) -> Tensor:\n  return x\n\
         def __getstate__(self) -> Dict[str, bool]:\n  return annotate(Dict[str, bool], {{}})\n\
         def __setstate__(self, state: Dict[str, bool]) -> NoneType:\n{CRASH}  \
         self.training = bool(dense[0])\n  return None\n"
    );
    Script::new(&code).write(path)
}

/// Code that ends the process. Later code may use `dense`, which it would set.
const CRASH: &str = "  index = torch.full([1, 1], 100000000000000, dtype=4)\n  \
    value = torch.ones([1])\n  \
    sparse = torch._sparse_coo_tensor_unsafe(index, value, [1])\n  \
    dense = torch.to_dense(sparse)\n";

/// Keeps `bytes` (rounded down to whole floats) more at every call. The tensors are random: the optimiser would make a
/// constant tensor only once.
pub fn leaks(path: &Path, bytes: u64) -> io::Result<()> {
    let code = format!(
        "def forward(self, x: Tensor) -> Tensor:\n  \
         _0 = torch.append(self.kept, torch.rand([{}]))\n  return x\n",
        bytes / 4
    );
    Script::new(&code).tensors("kept").write(path)
}

/// Uses memory that rises and falls below an upper bound. A call allocates between 1 and 7 times `bytes`, a different
/// amount each time. A rolling buffer keeps the last 64 tensors, whose size goes from 1 to 7 times `bytes` and back to
/// 1 in 350 calls.
pub fn fluctuates(path: &Path, bytes: u64) -> io::Result<()> {
    let code = format!(
        "def forward(self, x: Tensor) -> Tensor:\n  \
         self.calls = self.calls + 3\n  \
         taken = torch.ones([{bytes} * (self.calls % 7 + 1)], dtype=0)\n  \
         _0 = torch.append(self.kept, torch.ones([{bytes} * (self.calls // 150 % 7 + 1)], dtype=0))\n  \
         if torch.gt(torch.len(self.kept), 64):\n    _1 = torch.pop(self.kept, 0)\n  \
         else:\n    pass\n  \
         return x + taken[0]\n"
    );
    Script::new(&code)
        .int("calls", 0)
        .tensors("kept")
        .write(path)
}

/// Adds the number of calls since the last `reset_states` to its input.
pub fn counter(path: &Path) -> io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  self.count = self.count + 1\n  return x + self.count\n\
        def reset_states(self) -> NoneType:\n  self.count = 0\n  return None\n";
    Script::new(code).int("count", 0).write(path)
}

/// Returns `(x, [x + 1, x + 2], {"sum": sum of x, "seven": [7]})`.
pub fn tuple_list_dict(path: &Path) -> io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tuple[Tensor, List[Tensor], Dict[str, Tensor]]:\n  \
        return (x, [x + 1, x + 2], {\"sum\": torch.sum(x), \"seven\": torch.full([1], 7)})\n";
    Script::new(code).write(path)
}

/// Multiplies its input, a square matrix, by itself eight times: work for all threads of a host.
pub fn threads(path: &Path) -> io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  y = x\n  for _0 in range(8):\n    \
        y = torch.tanh(torch.matmul(y, x))\n  return y\n";
    Script::new(code).write(path)
}
