//! One host with the real protocol: tensors, failures, pings, the end of the socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(missing_docs)]

#[allow(dead_code)] // Each test binary uses another part.
mod owner;

use std::net::Shutdown;

use headroom_model_protocol::*;
use headroom_test_support::child;
use headroom_test_support::torchscript::{self, Fill, Script};
use owner::*;

fn plain(path: impl Into<std::path::PathBuf>) -> Start {
    Start::new("test", path)
}

#[test]
fn every_datatype_is_returned_unchanged() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, ready) = Host::ready(plain(path));
    assert_eq!(
        ready.description.inputs,
        [SignatureInput {
            name: "x".into(),
            type_text: "Tensor".into(),
            has_default: false,
        }]
    );
    // libtorch has no tensors of strings.
    for datatype in Datatype::ALL
        .into_iter()
        .filter(|it| *it != Datatype::Bytes)
    {
        // From nothing over inline to the arena.
        for shape in [
            vec![],
            vec![0],
            vec![3, 0, 2],
            vec![1],
            vec![2, 3, 4],
            vec![64, 1024, 3],
        ] {
            let len = (element_count(&shape).unwrap() * datatype.size().unwrap()) as usize;
            let is_bool = datatype == Datatype::Bool;
            let bytes = (0..len)
                .map(|at| if is_bool { at as u8 % 2 } else { at as u8 })
                .collect();
            let data = TensorData {
                name: "output".into(),
                ..TensorData::new(datatype, &shape, bytes)
            };
            assert_eq!(host.run(&data), data, "{datatype} {shape:?}");
        }
    }
}

#[test]
fn special_floats_are_kept() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    let floats = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -0.0,
        f32::MIN_POSITIVE / 2.0,
    ];
    let data = TensorData::floats(&[5], &floats);
    assert_eq!(host.run(&data).bytes, data.bytes);
}

#[test]
fn a_bool_is_0_or_1() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    let (kind, message) = host
        .infer(&[Arg::Tensor(&TensorData::new(
            Datatype::Bool,
            &[2],
            vec![1, 2],
        ))])
        .unwrap_err();
    assert_eq!(kind, FailureKind::InvalidInput);
    assert_eq!(
        message,
        "tensor `x` is BOOL and has a byte that is neither 0 nor 1"
    );
}

#[test]
fn a_model_computes() {
    let (_folder, path) = model(torchscript::affine);
    let (mut host, _) = Host::ready(plain(path));
    assert_eq!(
        host.run(&TensorData::floats(&[3], &[0.0, 1.0, -2.0]))
            .to_floats(),
        [0.5, 3.5, -5.5]
    );
}

#[test]
fn outputs_of_any_layout_become_dense() {
    let code = "def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:\n  \
        return (torch.t(x), torch.expand(x[0], [2, 3]), torch.to_sparse(x))\n";
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let (mut host, _) = Host::ready(plain(path));
    let x = TensorData::floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    let outputs = host.infer(&[Arg::Tensor(&x)]).unwrap();
    let floats: Vec<_> = outputs.iter().map(TensorData::to_floats).collect();
    assert_eq!(floats[0], [1., 4., 2., 5., 3., 6.]);
    assert_eq!(outputs[0].shape, [3, 2]);
    assert_eq!(floats[1], [1., 2., 3., 1., 2., 3.]);
    assert_eq!(floats[2], [1., 2., 3., 4., 5., 6.]);
}

#[test]
fn nested_outputs_have_stable_names() {
    let (_folder, path) = model(torchscript::tuple_list_dict);
    let (mut host, _) = Host::ready(plain(&path));
    assert_eq!(
        check(&path).1["output"],
        "Tuple[Tensor, List[Tensor], Dict[str, Tensor]]"
    );
    let x = TensorData::floats(&[2], &[1., 2.]);
    let outputs = host.infer(&[Arg::Tensor(&x)]).unwrap();
    let names: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "output_0",
            "output_1_0",
            "output_1_1",
            "output_2.sum",
            "output_2.seven"
        ]
    );
    assert_eq!(outputs[2].to_floats(), [3., 4.]);
    assert_eq!(outputs[3].shape, [0i64; 0]);

    let id = host.send_infer(&[Arg::Tensor(&x)], &["output_2.sum", "output_0"], false);
    let wanted: Vec<_> = host
        .receive_infer(id)
        .unwrap()
        .into_iter()
        .map(|output| output.name)
        .collect();
    assert_eq!(wanted, ["output_2.sum", "output_0"]);

    let id = host.send_infer(&[Arg::Tensor(&x)], &["nope"], false);
    let (kind, message) = host.receive_infer(id).unwrap_err();
    assert_eq!(kind, FailureKind::InvalidInput);
    assert!(
        message.starts_with("the model has no output `nope`, it has output_0"),
        "{message}"
    );
}

#[test]
fn declared_names_rename_choose_or_are_refused() {
    let (_folder, path) = model(torchscript::tuple_list_dict);
    let x = TensorData::floats(&[2], &[1., 2.]);
    let names_with = |declared: &[&str]| {
        let output_names = declared.iter().map(|name| name.to_string()).collect();
        let (mut host, _) = Host::ready(Start {
            output_names,
            ..plain(&path)
        });
        let outputs = host.infer(&[Arg::Tensor(&x)]);
        outputs.map(|outputs| {
            outputs
                .into_iter()
                .map(|output| output.name)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        names_with(&["a", "b", "c", "d", "e"]).unwrap(),
        ["a", "b", "c", "d", "e"]
    );
    assert_eq!(
        names_with(&["output_1_1", "output_0"]).unwrap(),
        ["output_1_1", "output_0"]
    );
    let (kind, message) = names_with(&["a"]).unwrap_err();
    assert_eq!(kind, FailureKind::Model);
    assert!(
        message.starts_with("the settings declare 1 outputs, the model has 5: "),
        "{message}"
    );
}

#[test]
fn numbers_are_inputs_and_outputs() {
    let code = "def forward(self, x: Tensor, n: int, f: float, b: bool) -> \
        Tuple[int, float, bool, List[int], Optional[Tensor], Dict[int, Tensor], List[float]]:\n  \
        return (n + 1, f * 2., b, [n, n], None, {5: x}, annotate(List[float], []))\n";
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let (mut host, _) = Host::ready(plain(path));
    let x = TensorData::floats(&[1], &[1.]);
    let arguments = |n| {
        [
            Arg::Tensor(&x),
            Arg::Scalar(n),
            Arg::Scalar(Scalar::Float(1.5)),
            Arg::Scalar(Scalar::Bool(true)),
        ]
    };
    let outputs = host.infer(&arguments(Scalar::Int(41))).unwrap();
    let expected = [
        (
            "output_0",
            Datatype::Int64,
            vec![],
            42i64.to_le_bytes().to_vec(),
        ),
        (
            "output_1",
            Datatype::Fp64,
            vec![],
            3f64.to_le_bytes().to_vec(),
        ),
        ("output_2", Datatype::Bool, vec![], vec![1]),
        (
            "output_3",
            Datatype::Int64,
            vec![2],
            [41i64.to_le_bytes(); 2].concat(),
        ),
        (
            "output_5.5",
            Datatype::Fp32,
            vec![1],
            1f32.to_le_bytes().to_vec(),
        ),
        ("output_6", Datatype::Fp64, vec![0], vec![]),
    ];
    let expected = expected.map(|(name, datatype, shape, bytes)| TensorData {
        name: name.into(),
        datatype,
        shape,
        bytes,
    });
    assert_eq!(outputs, expected);

    let (kind, message) = host.infer(&arguments(Scalar::Float(1.0))).unwrap_err();
    assert_eq!(
        (kind, message.as_str()),
        (
            FailureKind::InvalidInput,
            "input `n` has type int, the request has float"
        )
    );
    let (kind, message) = host.infer(&[Arg::Tensor(&x)]).unwrap_err();
    assert_eq!(kind, FailureKind::InvalidInput);
    assert_eq!(
        message,
        "the model takes 4 inputs (x: Tensor, n: int, f: float, b: bool), the request has 1"
    );
}

#[test]
fn an_exception_is_reported_in_one_line_and_the_host_serves_on() {
    let (_folder, path) = model(torchscript::throws);
    let (mut host, _) = Host::ready(plain(path));
    for _ in 0..3 {
        let (kind, message) = host
            .infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))])
            .unwrap_err();
        assert_eq!(kind, FailureKind::Model);
        assert_eq!(message, "builtins.ValueError: the model refuses");
    }
}

#[test]
fn a_wrong_shape_is_reported_without_paths_of_the_build() {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return torch.matmul(x, self.w)\n";
    let (_folder, path) = model(|path| {
        Script::new(code)
            .tensor("w", &[3, 2], Fill::Random(1))
            .write(path)
    });
    for optimize in [false, true] {
        let (mut host, _) = Host::ready(Start {
            optimize,
            ..plain(&path)
        });
        let (kind, message) = host
            .infer(&[Arg::Tensor(&TensorData::floats(&[1, 4], &[1.; 4]))])
            .unwrap_err();
        assert_eq!(kind, FailureKind::Model);
        assert_eq!(
            message,
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2)"
        );
        assert_eq!(
            host.run(&TensorData::floats(&[1, 3], &[0.; 3])).to_floats(),
            [0., 0.]
        );
    }
}

#[test]
fn memory_beyond_the_bound_is_refused_and_allocated_memory_is_freed() {
    let at_once = "taken = [torch.ones([int(x), 262144])]\n";
    let in_pieces = "taken = annotate(List[Tensor], [])\n  for _0 in range(int(x)):\n    \
        _1 = torch.append(taken, torch.rand([262144]))\n";
    let in_crumbs = "taken = annotate(List[Tensor], [])\n  for _0 in range(int(x) * 1024):\n    \
        _1 = torch.append(taken, torch.rand([256]))\n";
    for take in [at_once, in_pieces, in_crumbs] {
        let code = format!(
            "def forward(self, x: Tensor) -> Tensor:\n  {take}  return x + torch.len(taken)\n"
        );
        let (_folder, path) = model(|path| Script::new(&code).write(path));
        let (mut host, _) = Host::ready(plain(path));
        let takes = |host: &mut Host, mib: f32| {
            let answer = host.infer(&[Arg::Tensor(&TensorData::floats(&[1], &[mib]))]);
            answer.map(drop).map_err(|(kind, _)| kind)
        };
        let bound = |host: &mut Host, own_max: u64| {
            let request = HostRequest::BoundMemory { own_max };
            host.socket.send(&request, &[]);
        };
        bound(&mut host, 100 << 20);
        for _ in 0..3 {
            assert_eq!(takes(&mut host, 20.), Ok(()), "{take}");
            assert_eq!(
                takes(&mut host, 1000.),
                Err(FailureKind::OutOfMemory),
                "{take}"
            );
        }
        bound(&mut host, 600 << 20);
        assert_eq!(takes(&mut host, 300.), Ok(()), "{take}");
    }
}

#[test]
fn a_host_at_its_bound_refuses_many_small_tensors_and_serves_on() {
    let names: Vec<String> = (0..900)
        .map(|number| format!("x{number}: Tensor"))
        .collect();
    let code = format!(
        "def forward(self, {}) -> Tensor:\n  return x0\n",
        names.join(", ")
    );
    let (_folder, path) = model(|path| Script::new(&code).write(path));
    let (mut host, _) = Host::ready(plain(path));
    host.socket
        .send(&HostRequest::BoundMemory { own_max: 0 }, &[]);
    // 54 MB in tensors that are small enough for the frame.
    let large = TensorData::floats(&[15_000], &[1.; 15_000]);
    let small = TensorData::floats(&[1], &[1.]);
    for _ in 0..2 {
        let failure = host.infer(
            &names
                .iter()
                .map(|_| Arg::Tensor(&large))
                .collect::<Vec<_>>(),
        );
        assert_eq!(failure.unwrap_err().0, FailureKind::OutOfMemory);
        let outputs = host.infer(
            &names
                .iter()
                .map(|_| Arg::Tensor(&small))
                .collect::<Vec<_>>(),
        );
        assert_eq!(outputs.unwrap().len(), 1);
    }
}

#[test]
fn outputs_that_no_client_could_read_are_refused() {
    let refusals = [
        (
            "Tensor",
            "torch.complex(x, x)",
            "output `output` has datatype ComplexFloat, which cannot be sent; torch.view_as_real makes it one that can",
        ),
        (
            "Device",
            "ops.prim.device(x)",
            "output `output` is neither a tensor nor a number nor a string",
        ),
    ];
    for (kind, result, expected) in refusals {
        let code = format!("def forward(self, x: Tensor) -> {kind}:\n  return {result}\n");
        let (_folder, path) = model(|path| Script::new(&code).write(path));
        let (mut host, _) = Host::ready(plain(path));
        let failure = host
            .infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))])
            .unwrap_err();
        assert_eq!(failure, (FailureKind::Model, expected.to_owned()));
    }
}

#[test]
fn an_output_that_cannot_be_sent_does_not_refuse_the_others() {
    let code = "def forward(self, x: Tensor) -> Tuple[Tensor, Device, Tensor]:\n  \
                return (x, ops.prim.device(x), torch.complex(x, x))\n";
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let (mut host, _) = Host::ready(plain(path));
    let x = TensorData::floats(&[1], &[1.]);
    for (wanted, is_sent) in [("output_0", true), ("output_1", false), ("output_2", false)] {
        let id = host.send_infer(&[Arg::Tensor(&x)], &[wanted], false);
        assert_eq!(host.receive_infer(id).is_ok(), is_sent, "{wanted}");
    }
}

/// The bytes of a BYTES tensor.
fn strings(texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        push_element(&mut bytes, text).unwrap();
    }
    bytes
}

#[test]
fn strings_are_taken_and_returned() {
    let code = "def forward(self, many: List[str], one: str, x: Tensor) -> \
                Tuple[Tensor, List[str], str, Tuple[str, str], Dict[str, str]]:\n  \
                return (x, many, one, (one, one), {\"a\": one})\n";
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let (mut host, _) = Host::ready(plain(path));
    let text = |name: &str, shape: &[i64], texts: &[&[u8]]| TensorData {
        name: name.into(),
        ..TensorData::new(Datatype::Bytes, shape, strings(texts))
    };
    let x = TensorData {
        name: "output_0".into(),
        ..TensorData::floats(&[1], &[1.])
    };
    // From the frame and from the arena.
    let long = vec![b'l'; 100_000];
    let many: [&[u8]; 4] = ["é".as_bytes(), b"", b"\xff", &long];
    let one = text("one", &[1], &[b"one"]);
    let (all, none) = (text("many", &[4], &many), text("many", &[0], &[]));
    let outputs = host.infer(&[Arg::Tensor(&all), Arg::Tensor(&one), Arg::Tensor(&x)]);
    let each = |name| text(name, &[], &[b"one"]);
    let expected = vec![
        x.clone(),
        text("output_1", &[4], &many),
        each("output_2"),
        each("output_3_0"),
        each("output_3_1"),
        each("output_4.a"),
    ];
    assert_eq!(outputs.unwrap(), expected);
    // An empty list has no type, so it is no output, as all empty lists.
    let outputs = host.infer(&[Arg::Tensor(&none), Arg::Tensor(&one), Arg::Tensor(&x)]);
    assert_eq!(outputs.unwrap().len(), expected.len() - 1);
    let zero = text("one", &[1], &[b"a\0b"]);
    let two = text("one", &[2], &[b"a", b"b"]);
    for (arguments, word) in [
        ([&all, &zero, &x], "a zero byte"),
        ([&all, &two, &x], "takes one"),
        ([&all, &one, &one], "has type Tensor"),
        ([&x, &one, &x], "has type List[str]"),
    ] {
        let error = host.infer(&arguments.map(Arg::Tensor)).unwrap_err();
        assert!(error.1.contains(word), "{word}: {error:?}");
    }
    assert!(
        host.infer(&[Arg::Tensor(&all), Arg::Tensor(&one), Arg::Tensor(&x)])
            .is_ok()
    );
}

#[test]
fn lists_tuples_and_dicts_are_made_of_tensors() {
    let code = "def forward(self, a: List[Tensor], b: Dict[str, Tensor], \
                c: Tuple[Tensor, Tuple[int, str]], d: List[int], e: Optional[List[float]]) -> \
                Tuple[List[Tensor], Dict[str, Tensor], Tuple[Tensor, Tuple[int, str]], List[int], Optional[List[float]]]:\n  \
                return (a, b, c, d, e)\n";
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let (mut host, _) = Host::ready(plain(path));
    let float = |name: &str, value: f32| TensorData {
        name: name.into(),
        ..TensorData::floats(&[1], &[value])
    };
    let of = |name: &str, datatype, shape: &[i64], bytes: &[u8]| TensorData {
        name: name.into(),
        ..TensorData::new(datatype, shape, bytes.to_vec())
    };
    let a = [float("a.1", 1.0), float("a.0", 0.5)];
    let b = [float("b.x.y", 2.0), float("b.z", 3.0)];
    let text = strings(&[b"t"]);
    let c = [
        float("c.0", 4.0),
        of("c.1.0", Datatype::Uint16, &[1], &[7, 0]),
        of("c.1.1", Datatype::Bytes, &[1], &text),
    ];
    let d = of("d", Datatype::Int8, &[2, 1], &[1, 255]);
    let e = float("e", 0.25);
    let all = [
        Arg::Group("a", &a),
        Arg::Group("b", &b),
        Arg::Group("c", &c),
        Arg::Tensor(&d),
        Arg::Tensor(&e),
    ];
    let ints = |values: &[i64]| {
        values
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let expected = vec![
        float("output_0_0", 0.5),
        float("output_0_1", 1.0),
        float("output_1.x.y", 2.0),
        float("output_1.z", 3.0),
        float("output_2_0", 4.0),
        of("output_2_1_0", Datatype::Int64, &[], &ints(&[7])),
        of("output_2_1_1", Datatype::Bytes, &[], &text),
        of("output_3", Datatype::Int64, &[2], &ints(&[1, -1])),
        of("output_4", Datatype::Fp64, &[1], &0.25f64.to_le_bytes()),
    ];
    assert_eq!(host.infer(&all).unwrap(), expected);
    let [a0, a2] = [[float("a.0", 0.5)], [float("a.2", 1.0)]];
    let gap = [a0[0].clone(), a2[0].clone()];
    let wrong_text = [c[0].clone(), c[1].clone(), float("c.1.1", 1.0)];
    let other = [c[0].clone(), c[1].clone(), c[2].clone(), float("c.2", 1.0)];
    let halves = [float("c.0", 4.0), float("c.1.0", 0.5), c[2].clone()];
    for (a, c, d, word) in [
        (&gap[..], &c[..], &d, "`a.1` (Tensor) is missing"),
        (&a, &wrong_text, &d, "`c.1.1` has type str"),
        (&a, &other, &d, "other parts"),
        (&a, &halves, &d, "`c.1.0` has type int"),
        (&a, &c[..2], &d, "`c.1.1` (str) is missing"),
        (&a, &c, &e, "has type List[int]"),
    ] {
        let arguments = [
            Arg::Group("a", a),
            Arg::Group("b", &b),
            Arg::Group("c", c),
            Arg::Tensor(d),
            Arg::Tensor(&e),
        ];
        let (kind, message) = host.infer(&arguments).unwrap_err();
        assert_eq!(kind, FailureKind::InvalidInput, "{message}");
        assert!(message.contains(word), "{word}: {message}");
    }
    // One tensor is no list, and parts are no tensor.
    let one = [Arg::Tensor(&e), Arg::Group("b", &b), Arg::Group("c", &c)];
    let (_, message) = host.infer(&one).unwrap_err();
    assert!(message.contains("takes 5 inputs"), "{message}");
    assert!(host.infer(&all).is_ok());
}

#[test]
fn pings_are_answered_during_a_run() {
    let (_folder, path) = model(torchscript::slow);
    let (mut host, _) = Host::ready(plain(path));
    let milliseconds = TensorData::new(Datatype::Int64, &[1], 2_000i64.to_le_bytes().to_vec());
    let id = host.send_infer(&[Arg::Tensor(&milliseconds)], &[], false);
    // Replies of the main thread would follow the output.
    for _ in 0..3 {
        host.socket.send(&HostRequest::Ping, &[]);
        let reply = host.reply();
        assert!(
            matches!(reply, HostReply::Pong { anonymous: 1.. }),
            "{reply:?}"
        );
    }
    host.receive_infer(id).unwrap();
}

#[test]
fn a_second_inference_while_one_runs_ends_a_host() {
    let (_folder, path) = model(torchscript::slow);
    let (mut host, _) = Host::ready(plain(path));
    let milliseconds = TensorData::new(Datatype::Int64, &[1], 60_000i64.to_le_bytes().to_vec());
    host.send_infer(&[Arg::Tensor(&milliseconds)], &[], false);
    host.send_infer(&[Arg::Tensor(&milliseconds)], &[], false);
    assert_eq!(host.process.as_mut().unwrap().wait().code(), Some(76));
}

/// Clock ticks for which a process has run.
fn user_time(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap();
    // The 14th field, the 12th after the name in parentheses.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(11).unwrap().parse().unwrap()
}

#[test]
fn the_end_of_the_socket_ends_a_host_that_hangs() {
    let (_folder, path) = model(torchscript::hangs);
    let (mut host, _) = Host::ready(plain(path));
    let process = host.process.as_ref().unwrap();
    let before = user_time(process);
    host.send_infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))], &[], false);
    let process = host.process.as_ref().unwrap();
    wait_for("the run to begin", || user_time(process) > before + 10);
    host.socket.stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(host.process.as_mut().unwrap().wait().code(), Some(0));
}

#[test]
fn stop_ends_a_host() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    host.socket.send(&HostRequest::Stop, &[]);
    assert!(host.socket.receive().is_none());
    assert_eq!(host.process.as_mut().unwrap().wait().code(), Some(0));
}

#[test]
fn garbage_on_the_socket_ends_a_host_with_its_own_code() {
    use std::io::Write;
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    host.socket.stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(host.process.as_mut().unwrap().wait().code(), Some(76));
}

#[test]
fn wrong_descriptions_are_refused() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    let lies = [
        (vec![4], TensorLocation::Inline(0)),
        (vec![2], TensorLocation::Inline(1)),
        (vec![1 << 20], TensorLocation::Arena(0)),
        (vec![-1], TensorLocation::Inline(0)),
        (vec![i64::MAX, i64::MAX, 0], TensorLocation::Inline(0)),
    ];
    for (id, (shape, location)) in lies.into_iter().enumerate() {
        let tensor = TensorMeta {
            name: "x".into(),
            datatype: Datatype::Fp32,
            shape,
            length: 8,
            location,
        };
        let inputs = vec![Input::Tensor(tensor)];
        let infer = Infer {
            id: id as u64,
            inputs,
            wanted: vec![],
            reset_before: false,
        };
        host.socket.send(&HostRequest::Infer(infer), &[0; 8]);
        assert_eq!(
            host.receive_infer(id as u64).unwrap_err().0,
            FailureKind::InvalidInput
        );
    }
    assert_eq!(host.run(&TensorData::floats(&[1], &[7.])).to_floats(), [7.]);
}

#[test]
fn a_state_is_kept_and_reset() {
    let (_folder, path) = model(torchscript::counter);
    let (mut host, ready) = Host::ready(Start {
        stateful: true,
        ..plain(path)
    });
    assert!(ready.has_reset_states);
    let x = TensorData::floats(&[1], &[10.]);
    assert_eq!(host.run(&x).to_floats(), [11.]);
    assert_eq!(host.run(&x).to_floats(), [12.]);
    let id = host.send_infer(&[Arg::Tensor(&x)], &[], true);
    assert_eq!(host.receive_infer(id).unwrap()[0].to_floats(), [11.]);
}

#[test]
fn a_model_without_states_cannot_be_reset() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(&path));
    let id = host.send_infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))], &[], true);
    let expected = (
        FailureKind::InvalidInput,
        "the model has no method `reset_states`".to_owned(),
    );
    assert_eq!(host.receive_infer(id).unwrap_err(), expected);
    let (_, reply) = Host::serve(Start {
        stateful: true,
        ..plain(path)
    });
    assert!(
        matches!(
            reply,
            HostReply::StartFailed(Failure {
                kind: FailureKind::Settings,
                ..
            })
        ),
        "{reply:?}"
    );
}

#[test]
fn a_warm_up_that_fails_with_declared_shapes_fails_the_start() {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return torch.matmul(x, self.w)\n";
    let (_folder, path) = model(|path| {
        Script::new(code)
            .tensor("w", &[3, 2], Fill::Random(1))
            .write(path)
    });
    let with = |shape: Vec<i64>| {
        let datatype = Datatype::Fp32;
        Host::serve(Start {
            warm_up: true,
            inputs: vec![InputKind::Tensor { datatype, shape }],
            ..plain(&path)
        })
        .1
    };
    assert!(matches!(with(vec![-1, 3]), HostReply::Ready(_)));
    // 1 for -1 does not fit this model, other sizes do.
    assert!(matches!(with(vec![1, -1]), HostReply::Ready(_)));
    let HostReply::StartFailed(Failure { kind, message }) = with(vec![1, 4]) else {
        panic!("started")
    };
    assert_eq!(kind, FailureKind::Settings);
    assert!(
        message.contains("shapes cannot be multiplied (1x4 and 3x2)"),
        "{message}"
    );
}

#[test]
fn a_warm_up_runs_the_model_until_it_is_warm() {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  self.count = self.count + 1\n  return x + self.count\n";
    let (_folder, path) = model(|path| Script::new(code).int("count", 0).write(path));
    let x = TensorData::floats(&[1], &[0.]);
    for (warm_up, expected) in [(false, 0.0..=0.0), (true, 3.0..=12.0)] {
        let (datatype, shape) = (Datatype::Fp32, vec![1]);
        let (mut host, _) = Host::ready(Start {
            warm_up,
            inputs: vec![InputKind::Tensor { datatype, shape }],
            ..plain(&path)
        });
        let runs = host.run(&x).to_floats()[0] - 1.0;
        assert!(expected.contains(&runs), "{runs}");
    }
}

#[test]
fn failing_calls_leak_no_inputs() {
    let (_folder, path) = model(torchscript::throws);
    let (mut host, _) = Host::ready(plain(path));
    let large = TensorData::new(Datatype::Uint8, &[8 << 20], vec![1; 8 << 20]);
    let trimmed = |host: &mut Host| {
        host.socket.send(&HostRequest::Trim, &[]);
        let HostReply::Trimmed(trimmed) = host.reply() else {
            panic!("not trimmed")
        };
        trimmed.after
    };
    host.infer(&[Arg::Tensor(&large)]).unwrap_err();
    let before = trimmed(&mut host);
    for _ in 0..20 {
        host.infer(&[Arg::Tensor(&large)]).unwrap_err();
    }
    let after = trimmed(&mut host);
    assert!(after < before + (8 << 20), "{before} bytes grew to {after}");
}

#[test]
fn no_memory_is_allocated_for_outputs_before_the_owner_allows_it() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    let large = TensorData::new(Datatype::Uint8, &[8 << 20], vec![1; 8 << 20]);
    let asked = |host: &mut Host| {
        let expected = host.send_infer(&[Arg::Tensor(&large)], &[], false);
        let HostReply::OutputSize { id, bytes } = host.reply() else {
            panic!("the host did not ask");
        };
        assert_eq!((id, bytes), (expected, 8 << 20));
        assert!(host.replies.size().unwrap() == 0);
        id
    };

    let id = asked(&mut host);
    // Other work goes on meanwhile.
    host.socket.send(&HostRequest::Ping, &[]);
    assert!(matches!(host.reply(), HostReply::Pong { .. }));
    host.socket.send(&HostRequest::Trim, &[]);
    assert!(matches!(host.reply(), HostReply::Trimmed(_)));
    let drop = HostRequest::Outputs { id, send: false };
    host.socket.send(&drop, &[]);
    let (kind, _) = host.receive_infer(id).unwrap_err();
    assert_eq!(kind, FailureKind::OutputsDropped);
    assert!(host.replies.size().unwrap() == 0);

    let id = asked(&mut host);
    let send = HostRequest::Outputs { id, send: true };
    host.socket.send(&send, &[]);
    assert_eq!(host.receive_infer(id).unwrap()[0].bytes, large.bytes);
    assert!(host.replies.size().unwrap() == 0);

    asked(&mut host);
    host.socket.send(&HostRequest::Stop, &[]);
    assert!(host.process.as_mut().unwrap().wait().success());
}

#[test]
fn an_answer_about_outputs_that_no_inference_waits_for_ends_a_host() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    let answer = HostRequest::Outputs { id: 77, send: true };
    host.socket.send(&answer, &[]);
    assert_eq!(host.process.as_mut().unwrap().wait().code(), Some(76));
}

#[test]
fn large_tensors_leave_the_arenas_empty() {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _) = Host::ready(plain(path));
    let large = TensorData::new(
        Datatype::Uint8,
        &[20 << 20],
        (0..20 << 20).map(|at| (at % 251) as u8).collect(),
    );
    assert_eq!(host.run(&large).bytes, large.bytes);
    assert_eq!(host.replies.size().unwrap(), 0);
}

#[test]
fn crashes_end_only_the_host() {
    use std::os::unix::process::ExitStatusExt;
    let (_folder, path) = model(torchscript::crashes);
    let (mut host, _) = Host::ready(plain(path));
    host.send_infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))], &[], false);
    assert_eq!(host.socket.receive(), None);
    assert_eq!(host.process.as_mut().unwrap().wait().signal(), Some(11));

    let (_folder, path) = model(torchscript::crashes_on_load);
    let output = run(&["--check".as_ref(), path.as_os_str()]);
    assert_eq!(output.status.signal(), Some(11), "{output:?}");
}

#[test]
fn the_sample_model_gives_the_same_outputs_in_each_process() {
    let (mut host, ready) = Host::ready(sample_start());
    assert_eq!(
        ready.description.inputs[1],
        SignatureInput {
            name: "sr".into(),
            type_text: "int".into(),
            has_default: false,
        }
    );
    assert!(ready.has_reset_states);
    let fresh: Vec<f32> = (0..20)
        .map(|index| host.speech_probability(&chunk(index), false))
        .collect();
    assert!(
        fresh
            .iter()
            .all(|probability| (0.0..=1.0).contains(probability)),
        "{fresh:?}"
    );
    // The same again, after a reset, and in another process.
    let again: Vec<f32> = (0..20)
        .map(|index| host.speech_probability(&chunk(index), index == 0))
        .collect();
    assert_eq!(fresh, again);
    let unreset: Vec<f32> = (0..20)
        .map(|index| host.speech_probability(&chunk(index), false))
        .collect();
    assert_ne!(fresh, unreset, "the model has no state after all");
    let (mut other, _) = Host::ready(sample_start());
    let elsewhere: Vec<f32> = (0..20)
        .map(|index| other.speech_probability(&chunk(index), false))
        .collect();
    assert_eq!(fresh, elsewhere);
}

#[test]
fn a_host_without_a_start_ends_with_its_socket() {
    let (owner_end, process_end) = std::os::unix::net::UnixStream::pair().unwrap();
    let stdin = std::process::Stdio::from(std::os::fd::OwnedFd::from(process_end));
    let serve = child::start(child::command(BINARY).arg("--serve").stdin(stdin));
    let mut process = Process(serve.unwrap());
    drop(owner_end);
    assert_eq!(process.wait().code(), Some(0));
}
