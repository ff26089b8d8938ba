//! `cust` beside this library: what is useful of it links without a toolkit, and a program with it starts without a
//! driver and is told so.
#![cfg(feature = "cust")]
use cust::context::{Context, CurrentContext};
use cust::device::{Device as CustDevice, DeviceAttribute};
use cust::error::CudaError;
use cust::event::{Event, EventFlags};
use cust::function::FunctionAttribute;
use cust::launch;
use cust::memory::{AsyncCopyDestination, CopyDestination, DeviceBuffer, LockedBuffer};
use cust::module::Module;
use cust::stream::{Stream as CustStream, StreamFlags};
use qkv::{Device, DeviceSpan, Query};

const PTX: &str = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry idle() { ret; }\n";

/// Uses all of `cust` that is forwarded in kind: device, context, module, stream, event, memory, launch.
fn tour() -> Result<Device, Box<dyn std::error::Error>> {
    cust::init(cust::CudaFlags::empty())?;
    let device = CustDevice::get_device(0)?;
    let major = device.get_attribute(DeviceAttribute::ComputeCapabilityMajor)?;
    let (name, memory) = (device.name()?, device.total_memory()?);
    assert!(!name.is_empty() && memory > 0 && cust::CudaApiVersion::get()?.major() >= 11);
    let context = Context::new(device)?;
    let module = Module::from_ptx(PTX, &[])?;
    let function = module.get_function("idle")?;
    assert!(function.get_attribute(FunctionAttribute::NumRegisters)? >= 0);
    let stream = CustStream::new(StreamFlags::NON_BLOCKING, None)?;
    let (begin, end) = (Event::new(EventFlags::DEFAULT)?, Event::new(EventFlags::DEFAULT)?);
    let mut buffer = DeviceBuffer::from_slice(&[7_u16; 2 * 64])?;
    let mut locked = LockedBuffer::new(&9_u16, 2 * 64)?;
    begin.record(&stream)?;
    // SAFETY: the kernel takes nothing and does nothing; the copies' host memory outlives the synchronisation.
    unsafe {
        launch!(function<<<1, 32, 0, stream>>>())?;
        buffer.async_copy_from(&locked, &stream)?;
    }
    end.record(&stream)?;
    stream.synchronize()?;
    assert!(end.elapsed_time_f32(&begin)? >= 0.0);
    buffer.copy_to(&mut locked)?;
    assert!(locked.iter().all(|&x| x == 9));
    CurrentContext::synchronize()?;

    let ours = Device::from_cust(&context)?;
    assert_eq!(ours.properties().arch.major as i32, major);
    assert_eq!(ours.context(), context.as_raw().cast());
    // SAFETY: of this context, and dropped after it.
    let wrapped = unsafe { ours.cust_stream(&stream) };
    wrapped.synchronize()?;
    let span = DeviceSpan::from(&buffer);
    assert_eq!(span.bytes(), 256);
    assert!(Query::<qkv::Bf16>::new(&buffer, [2, 1, 64]).is_ok());
    Ok(ours)
}

#[test]
fn cust_works_or_says_that_there_is_no_device() {
    match qkv::Driver::find() {
        Ok(_) => {
            let device = tour().expect("a driver and a device");
            // The device outlives cust's context.
            device.default_stream().synchronize().expect("a retained context");
        }
        Err(missing) => {
            assert_eq!(cust::init(cust::CudaFlags::empty()), Err(CudaError::NoDevice), "{missing}");
            let error = tour().expect_err("no device");
            // `to_string` asks the driver for words; it must not fail without one.
            assert!(error.to_string().contains("no CUDA device"), "{error}");
            assert_eq!(CustDevice::num_devices(), Err(CudaError::NotInitialized));
        }
    }
}
