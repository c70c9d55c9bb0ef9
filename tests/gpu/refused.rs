//! Launches that must be refused, before anything is launched.

use super::kernels::Kernels;
use annulus::exec::cuda::{
    AttentionStep, Buffer, BufferRange, CudaError, DeviceTensor, Gpu, KvRows, QRows, Runs, StepInput,
};
use annulus::lower::{Arch, Element, Helper, KernelKey, MaskedScore, Rows, StepKind, Steps};

/// What was not refused, or not for the reason that holds; none is right.
pub(crate) fn run(gpu: &Gpu, kernels: &Kernels, arch: Arch) -> Result<Vec<String>, CudaError> {
    let mut wrong = vec![];
    let mut refuse = |name: &str, result: Result<(), CudaError>, reason: &str| match result {
        Err(e) if e.to_string().contains(reason) => {}
        Err(e) => wrong.push(format!("{name} is refused with: {e}")),
        Ok(()) => wrong.push(format!("{name} is not refused")),
    };
    let plain = |positions| {
        let key = KernelKey::portable(Element::Bf16, 64, 64, positions, arch);
        key.ok_or_else(|| CudaError::Launch("no kernel for heads of 64".into()))
    };
    let key = plain(false)?;
    let kernel = kernels.get(&key)?;
    let rows = Rows { start: 0, step: 1, len: 64, local: 0 };
    let size = 64 * 64 * 2;
    let buffers: Vec<Buffer> = (0..5).map(|_| gpu.filled(size, 0)).collect::<Result<_, _>>()?;
    let [q, k, v, out, lse] = [0, 1, 2, 3, 4].map(|i| BufferRange { buffer: &buffers[i], offset: 0 });
    let right = AttentionStep {
        batch: 1,
        q_heads: 1,
        kv_heads: 1,
        q_rows: 64,
        head_dims: [64, 64],
        q,
        out: Some(out),
        lse: Some(lse),
        q_pieces: vec![QRows { rows, carry: None }],
        kv_pieces: vec![KvRows { rows, k, v }],
        scale: 0.125,
        softcap: 0.0,
        empty_row: 0.0,
        window: [None, None],
        shift: None,
        documents: None,
        fill: 0.0,
        bias: None,
        mask: None,
        sinks: None,
        steps: vec![],
    };
    if let Err(e) = gpu.attn_partial(&kernel, None, &right) {
        refuse("the right step", Err(e), "nothing is wrong");
    }
    let other = Gpu::open(0)?;
    let foreign = other.filled(size, 0)?;
    let there = BufferRange { buffer: &foreign, offset: 0 };
    let short = BufferRange { buffer: &buffers[0], offset: 16 };
    let odd = BufferRange { buffer: &buffers[0], offset: 8 };
    let with_kv = |k, v| AttentionStep { kv_pieces: vec![KvRows { rows, k, v }], ..right.clone() };
    let steps = [
        ("a q of another GPU", AttentionStep { q: there, ..right.clone() }, "another GPU"),
        ("a k of another GPU", with_kv(there, v), "another GPU"),
        ("a q that ends early", AttentionStep { q: short, ..right.clone() }, "outside of its buffer"),
        ("a q at 8 bytes", AttentionStep { q: odd, ..right.clone() }, "multiple of 16"),
        ("an out over q", AttentionStep { out: Some(q), ..right.clone() }, "overlaps"),
        ("an out over v", AttentionStep { out: Some(v), ..right.clone() }, "overlaps"),
        ("an lse over out", AttentionStep { lse: Some(out), ..right.clone() }, "overlaps"),
        ("more heads of k than of q", AttentionStep { kv_heads: 2, ..right.clone() }, "key heads"),
        ("a window", AttentionStep { window: [None, Some(1)], ..right.clone() }, "does not mask"),
        (
            "rows from -1",
            AttentionStep {
                q_pieces: vec![QRows { rows: Rows { start: -1, ..rows }, carry: None }],
                ..right.clone()
            },
            "rows",
        ),
        (
            "rows beyond q",
            AttentionStep {
                q_pieces: vec![QRows { rows: Rows { local: 1, ..rows }, carry: None }],
                ..right.clone()
            },
            "outside of q",
        ),
        ("a head of 128", AttentionStep { head_dims: [128, 64], ..right.clone() }, "head sizes"),
        ("a scale of NaN", AttentionStep { scale: f32::NAN, ..right.clone() }, "scale"),
    ];
    for (name, step, reason) in &steps {
        refuse(name, gpu.attn_partial(&kernel, None, step), reason);
    }
    // A kernel with steps: a number, a tensor, a fill by position and mask.
    let fill = StepKind::Fill { score: MaskedScore::Add, positions: true, masks: 1 };
    let kinds = [StepKind::Softcap, StepKind::Add(Element::F32), fill];
    let with_steps = KernelKey { steps: Steps::new(&kinds).unwrap_or_default(), ..key };
    let with_steps = kernels.get(&with_steps)?;
    let pairs = gpu.filled(64 * 64 * 4, 0)?;
    let tensor = |buffer| DeviceTensor {
        at: BufferRange { buffer, offset: 0 },
        strides: [0, 0, 64, 1],
        local_rows: false,
    };
    let cap = StepInput { number: 3.0, ..StepInput::default() };
    let add = |buffer| StepInput { leaves: vec![tensor(buffer)], ..StepInput::default() };
    let fill = |window| StepInput { number: -2.0, window, ..add(&pairs) };
    let all = || vec![cap.clone(), add(&pairs), fill([None, Some(1)])];
    let stepwise = |scale: f32, steps| AttentionStep { scale, steps, ..right.clone() };
    if let Err(e) = gpu.attn_partial(&with_steps, None, &stepwise(1.0, all())) {
        refuse("the right steps", Err(e), "nothing is wrong");
    }
    let with = |i: usize, input| {
        let mut all = all();
        all[i] = input;
        stepwise(1.0, all)
    };
    let over_out =
        AttentionStep { out: Some(BufferRange { buffer: &pairs, offset: 0 }), ..stepwise(1.0, all()) };
    let cases = [
        ("steps for a kernel without", &kernel, stepwise(0.125, all()), "inputs of 3 steps for 0"),
        ("no steps", &with_steps, stepwise(1.0, vec![]), "inputs of 0 steps for 3"),
        ("a scale beside steps", &with_steps, stepwise(0.125, all()), "beside steps"),
        ("a cap of 0", &with_steps, with(0, StepInput::default()), "a number of 0"),
        ("a step without its tensor", &with_steps, with(1, StepInput::default()), "0 tensors"),
        ("positions for a sum", &with_steps, with(1, fill([None, Some(1)])), "positions for"),
        (
            "a fill of NaN",
            &with_steps,
            with(2, StepInput { number: f32::NAN, ..add(&pairs) }),
            "a number of NaN",
        ),
        ("a tensor that ends early", &with_steps, with(1, add(&buffers[0])), "outside of its buffer"),
        ("a tensor of another GPU", &with_steps, with(1, add(&foreign)), "another GPU"),
        ("a tensor that out overwrites", &with_steps, over_out, "overlaps"),
    ];
    for (name, kernel, step, reason) in &cases {
        refuse(name, gpu.attn_partial(kernel, None, step), reason);
    }
    let another = kernels.get(&plain(true)?)?;
    refuse(
        "a kernel behind one that leaves no rows",
        gpu.attn_partial(&kernel, Some(&another), &right),
        "is not the kernel behind",
    );
    refuse("a kernel of another GPU", other.attn_partial(&kernel, None, &right), "another GPU");
    refuse("a download from another GPU", gpu.download(&foreign).map(|_| ()), "another GPU");
    let mut mine = gpu.filled(size, 0)?;
    refuse("a copy from another GPU", gpu.copy((&foreign, 0), (&mut mine, 0), 16), "another GPU");
    refuse("a copy beyond the end", gpu.copy((&buffers[0], size - 8), (&mut mine, 0), 16), "outside");
    let pack = kernels.helper(Helper::Pack { copy: 16 })?;
    let run = |to: usize| Runs {
        from: q,
        to: BufferRange { buffer: &buffers[3], offset: to },
        from_head: 256,
        to_head: 512,
        bytes: 256,
    };
    if let Err(e) = gpu.pack(&pack, &[run(0), run(256)], 4) {
        refuse("runs that lie between each other", Err(e), "nothing is wrong");
    }
    refuse("runs to the same place", gpu.pack(&pack, &[run(0), run(240)], 4), "the same place");
    refuse("a run at 8 bytes", gpu.pack(&pack, &[run(8)], 4), "no multiple");
    gpu.finish()?;
    Ok(wrong)
}
