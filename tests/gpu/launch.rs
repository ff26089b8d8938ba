//! Ways to launch that only a GPU has: graphs replayed with other lengths and plans, streams by their handles, contexts
//! side by side; and the checked launch.
use super::request::Request;
use super::test;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr;
use libloading::Library;
use libtest_mimic::{Failed, Trial};
use qkv::{Device, Error, Graph, PlanOptions, Splits, Stream, Workspace};

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        test("launch::graph_serves_a_later_plan", graph_serves_a_later_plan),
        test("launch::checked_names_the_first_bad_page", checked_names_the_first_bad_page),
        test("launch::capture_refuses_what_waits", capture_refuses_what_waits),
        test("launch::two_contexts", two_contexts),
        test("launch::streams_0_1_2_and_a_new_one", streams),
        test("launch::two_threads", two_threads),
    ];
    for splits in [Splits::Never, Splits::Auto, Splits::Most, Splits::FixedSize(128)] {
        let name = format!("launch::graph_with_other_lengths::{splits:?}").to_lowercase();
        tests.push(test(name, move |device| graph_with_other_lengths(device, splits)));
    }
    tests
}

const LENGTHS: [usize; 5] = [300, 77, 1640, 16, 1];

fn options(splits: Splits) -> PlanOptions {
    PlanOptions { splits, ..PlanOptions::default() }
}

/// Lengths are read at each replay: shorter ones are right, and longer ones clamped to the planned.
fn graph_with_other_lengths(device: &Device, splits: Splits) -> Result<(), Failed> {
    let request = Request::new(device, &LENGTHS)?;
    let plan = request.plan(&request.lengths(), &options(splits))?;
    let stream = device.new_stream()?;
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let decode = request.decode()?;
    let planned = plan.upload(&stream, &mut workspace)?;
    let mut prepared = planned.prepare(&decode)?;
    let mut graph = Graph::capture(&stream, || prepared.launch(&stream))?;
    let own = LENGTHS.map(|length| length as i32);
    let seen: [([i32; 5], [usize; 5]); 6] = [
        (own, LENGTHS),
        ([299, 0, 17, 16, 1], [299, 0, 17, 16, 1]),
        ([0; 5], [0; 5]),
        ([301, 78, 1641, 17, 2], LENGTHS),
        ([i32::MAX; 5], LENGTHS),
        ([-1, i32::MIN, 1640, 15, 0], [0, 0, 1640, 15, 0]),
    ];
    for (written, expected) in seen {
        request.reset(&written)?;
        // SAFETY: the request's buffers and the workspace live, and only this stream uses them.
        unsafe { graph.launch(&stream) }?;
        stream.synchronize()?;
        request.judge(&expected, plan.kernel())?;
        let first = request.output()?;
        request.reset(&written)?;
        // SAFETY: as above.
        unsafe { graph.launch(&stream) }?;
        stream.synchronize()?;
        if request.output()? != first {
            return Err(format!("{written:?}: another replay, another answer").into());
        }
    }
    Ok(())
}

/// A plan uploaded later into the same workspace is what a replay runs.
fn graph_serves_a_later_plan(device: &Device) -> Result<(), Failed> {
    let request = Request::new(device, &LENGTHS)?;
    let stream = device.new_stream()?;
    let decode = request.decode()?;
    let first = request.plan(&[64, 1, 200, 16, 1], &PlanOptions::default())?;
    let later = request.plan(&request.lengths(), &PlanOptions::default())?;
    if !first.replays(&later) {
        return Err("the later plan does not fit the captured launch".into());
    }
    let memory = device.alloc(first.workspace_bytes().max(later.workspace_bytes()))?;
    let mut workspace = Workspace::new(&memory);
    let mut graph = {
        let planned = first.upload(&stream, &mut workspace)?;
        let mut prepared = planned.prepare(&decode)?;
        Graph::capture(&stream, || prepared.launch(&stream))?
    };
    let own = LENGTHS.map(|length| length as i32);
    for (plan, expected) in [(&first, [64, 1, 200, 16, 1]), (&later, LENGTHS), (&first, [64, 1, 200, 16, 1])] {
        request.reset(&own)?;
        plan.upload(&stream, &mut workspace)?;
        // SAFETY: the request's buffers and the workspace live, and only this stream uses them.
        unsafe { graph.launch(&stream) }?;
        stream.synchronize()?;
        request.judge(&expected, plan.kernel())?;
    }
    Ok(())
}

fn checked_names_the_first_bad_page(device: &Device) -> Result<(), Failed> {
    let request = Request::new(device, &LENGTHS)?;
    let plan = request.plan(&request.lengths(), &PlanOptions::default())?;
    let stream = device.default_stream();
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let decode = request.decode()?;
    let planned = plan.upload(&stream, &mut workspace)?;
    let mut prepared = planned.prepare(&decode)?;
    prepared.launch_checked(&stream)?;
    stream.synchronize()?;
    request.judge(&LENGTHS, plan.kernel())?;
    // Written from the last to the first: each is then the first.
    let pages = request.pages() as i32;
    for (sequence, page, id) in [(4, 0, -1), (2, 102, pages), (2, 7, i32::MIN), (1, 4, i32::MAX), (0, 18, pages)] {
        request.reset(&LENGTHS.map(|length| length as i32))?;
        request.set_page(sequence, page, id)?;
        let expected = Error::PageId { sequence, page, id, pages: pages as u32 }.to_string();
        let answer = prepared.launch_checked(&stream).map_err(|error| error.to_string());
        if answer != Err(expected.clone()) {
            return Err(format!("{answer:?} where {expected:?} was due").into());
        }
        stream.synchronize()?;
        if request.output()?.iter().any(|byte| *byte != 0xFF) {
            return Err("the decode kernel ran all the same".into());
        }
    }
    Ok(())
}

fn capture_refuses_what_waits(device: &Device) -> Result<(), Failed> {
    let request = Request::new(device, &LENGTHS)?;
    let plan = request.plan(&request.lengths(), &PlanOptions::default())?;
    let stream = device.new_stream()?;
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let captured = Graph::capture(&stream, || plan.upload(&stream, &mut workspace).map(|_| ()));
    if !matches!(captured, Err(Error::Capturing { .. })) {
        return Err("a plan was uploaded in a capture".into());
    }
    let decode = request.decode()?;
    let planned = plan.upload(&stream, &mut workspace)?;
    let mut prepared = planned.prepare(&decode)?;
    if !matches!(Graph::capture(&stream, || prepared.launch_checked(&stream)), Err(Error::Capturing { .. })) {
        return Err("a checked launch was captured".into());
    }
    // The stream is as good as before.
    prepared.launch(&stream)?;
    stream.synchronize()?;
    Ok(request.judge(&LENGTHS, plan.kernel())?)
}

/// Plans, launches and judges a request of its own on `stream`.
fn decode_on(stream: &Stream, lengths: &[usize]) -> Result<(), Failed> {
    let device = stream.device();
    let request = Request::new(device, lengths)?;
    for splits in [Splits::Auto, Splits::Most] {
        let plan = request.plan(&request.lengths(), &options(splits))?;
        let memory = device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        let decode = request.decode()?;
        request.reset(&request.lengths().iter().map(|length| *length as i32).collect::<Vec<_>>())?;
        plan.upload(stream, &mut workspace)?.prepare(&decode)?.launch(stream)?;
        stream.synchronize()?;
        request.judge(lengths, plan.kernel())?;
    }
    Ok(())
}

/// The default streams have small numbers for handles: 0 and 1 the legacy one, 2 the thread's own.
fn streams(device: &Device) -> Result<(), Failed> {
    for handle in 0..3 {
        // SAFETY: these handles are always live.
        let stream = unsafe { device.stream(ptr::without_provenance_mut(handle)) };
        decode_on(&stream, &LENGTHS).map_err(|error| format!("stream {handle}: {error:?}"))?;
    }
    decode_on(&device.new_stream()?, &LENGTHS)
}

fn two_threads(device: &Device) -> Result<(), Failed> {
    std::thread::scope(|scope| {
        let threads = [[40, 999], [1234, 0]].map(|lengths| {
            scope.spawn(move || {
                let stream = device.new_stream()?;
                (0..8).try_for_each(|_| decode_on(&stream, &lengths))
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })
}

/// A context that is not the primary one, as a program with its own would have.
struct OwnContext {
    driver: Library,
    raw: *mut c_void,
}

impl OwnContext {
    fn new() -> Result<Self, Failed> {
        // SAFETY: the driver, loaded by the library under test already.
        let driver = unsafe { Library::new("libcuda.so.1") }?;
        let (mut raw, mut popped) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the signatures of cuda.h; device 0 has handle 0, and `cuInit` was called for `Device::cuda`.
        let answers = unsafe {
            let create =
                driver.get::<unsafe extern "C" fn(*mut *mut c_void, c_uint, c_int) -> c_int>(b"cuCtxCreate_v2\0")?;
            let pop = driver.get::<unsafe extern "C" fn(*mut *mut c_void) -> c_int>(b"cuCtxPopCurrent_v2\0")?;
            [create(&raw mut raw, 0, 0), pop(&raw mut popped)]
        };
        if answers == [0, 0] { Ok(Self { driver, raw }) } else { Err(format!("cuCtxCreate, pop: {answers:?}").into()) }
    }
}

impl Drop for OwnContext {
    fn drop(&mut self) {
        // SAFETY: created above, and dropped after all that was made from it.
        unsafe {
            if let Ok(destroy) = self.driver.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"cuCtxDestroy_v2\0") {
                destroy(self.raw);
            }
        }
    }
}

/// Two contexts of one GPU take turns; neither takes the other's streams.
fn two_contexts(device: &Device) -> Result<(), Failed> {
    let context = OwnContext::new()?;
    // SAFETY: the context lives to the end of this function, where it is dropped last.
    let own = unsafe { Device::from_context(context.raw) }?;
    for _ in 0..3 {
        decode_on(&device.default_stream(), &[100, 900])?;
        decode_on(&own.default_stream(), &[7, 0, 1025])?;
    }
    let request = Request::new(device, &LENGTHS)?;
    let plan = request.plan(&request.lengths(), &PlanOptions::default())?;
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let decode = request.decode()?;
    let planned = plan.upload(&device.default_stream(), &mut workspace)?;
    match planned.prepare(&decode)?.launch(&own.default_stream()) {
        Err(Error::OtherDevice { .. }) => Ok(()),
        other => Err(format!("{other:?} where the other context's stream was to be refused").into()),
    }
}
