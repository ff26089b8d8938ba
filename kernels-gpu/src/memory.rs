//! Addresses as values: where a byte lives is part of its type, and a kernel never dereferences.
//!
//! `Copy` newtypes without `Deref`, the only arguments of loads, stores and copies, laid out alike in parameters and
//! in the simulator. Offsets are in bytes and 64-bit in global memory: a page id times a stride overflows 32 bits.
use core::marker::PhantomData;

/// An address in global memory of elements `T`.
#[repr(transparent)]
pub struct Global<T> {
    /// The device address.
    pub address: u64,
    element: PhantomData<T>,
}

/// An address in this block's shared memory (the 32-bit window of the `shared` state space) of elements `T`.
#[repr(transparent)]
pub struct Shared<T> {
    /// The address in the shared window.
    pub address: u32,
    element: PhantomData<T>,
}

/// An address in the shared memory of any block of the cluster (the window of the `shared::cluster` space) of elements `T`.
#[repr(transparent)]
pub struct Peer<T> {
    /// The address in the cluster's window.
    pub address: u32,
    element: PhantomData<T>,
}

/// What a [`Shared`] or [`Peer`] address of an mbarrier is of: 8 opaque bytes, aligned to 8.
#[repr(C, align(8))]
pub struct Mbarrier([u8; 8]);

/// An address in tensor memory (compute capability 10.x): lane in bits 16 to 31, column in bits 0 to 15. A multiprocessor has 128 lanes of
/// 512 columns of 32 bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMemory {
    bits: u32,
}

impl TensorMemory {
    /// What an allocation wrote.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self { bits }
    }

    /// What instructions are given.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// The column `columns` further on.
    #[inline(always)]
    pub const fn at_column(self, columns: u32) -> Self {
        Self::from_bits(self.bits + columns)
    }

    /// The lane `lanes` further on.
    #[inline(always)]
    pub const fn at_lane(self, lanes: u32) -> Self {
        Self::from_bits(self.bits + (lanes << 16))
    }
}

/// The address of a tensor map among a kernel's parameters.
#[derive(Clone, Copy, Debug)]
pub struct TensorMapAddress {
    /// The generic address; on the simulator, the host's.
    pub address: u64,
}

impl TensorMapAddress {
    /// The map at `address`.
    pub const fn new(address: u64) -> Self {
        Self { address }
    }

    /// The map `index` places on.
    #[inline(always)]
    pub const fn at(self, index: u32) -> Self {
        Self::new(self.address + 128 * index as u64)
    }

    /// On the simulator, the map.
    ///
    /// # Safety
    /// A live [`TensorMap`](crate::layout::tensor_map::TensorMap) of the host is there.
    #[cfg(not(target_arch = "nvptx64"))]
    pub unsafe fn words<'a>(self) -> &'a [u64; 16] {
        // SAFETY: the caller's promise; parameters outlive the threads that run with them.
        unsafe { &*core::ptr::with_exposed_provenance::<[u64; 16]>(self.address as usize) }
    }
}

impl<T> Clone for Peer<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Peer<T> {}

impl<T> Peer<T> {
    /// The element at `address`.
    pub const fn new(address: u32) -> Self {
        Self { address, element: PhantomData }
    }

    /// The element `index` places on.
    #[inline(always)]
    pub const fn at(self, index: u32) -> Self {
        Self::new(self.address + index * size_of::<T>() as u32)
    }
}

impl<T> Clone for Global<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Global<T> {}
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

impl<T> core::fmt::Debug for Global<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "global {:#x}", self.address)
    }
}

impl<T> Global<T> {
    /// No address: an optional buffer that is not there.
    pub const NULL: Self = Self::new(0);

    /// The element at `address`.
    pub const fn new(address: u64) -> Self {
        Self { address, element: PhantomData }
    }

    /// Whether there is a buffer.
    #[inline(always)]
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// `bytes` further on.
    #[inline(always)]
    pub const fn byte_offset(self, bytes: i64) -> Self {
        Self::new(self.address.wrapping_add_signed(bytes))
    }

    /// The element `index` places on.
    #[inline(always)]
    pub const fn at(self, index: u32) -> Self {
        Self::new(self.address + index as u64 * size_of::<T>() as u64)
    }

    /// The same address, read as `U`.
    #[inline(always)]
    pub const fn cast<U>(self) -> Global<U> {
        Global::new(self.address)
    }
}

impl<T> Shared<T> {
    /// The element at `address`.
    pub const fn new(address: u32) -> Self {
        Self { address, element: PhantomData }
    }

    /// The element `index` places on.
    #[inline(always)]
    pub const fn at(self, index: u32) -> Self {
        Self::new(self.address + index * size_of::<T>() as u32)
    }

    /// The same address, read as `U`.
    #[inline(always)]
    pub const fn cast<U>(self) -> Shared<U> {
        Shared::new(self.address)
    }

    /// `bytes` further on.
    #[inline(always)]
    pub const fn byte_offset(self, bytes: u32) -> Self {
        Self::new(self.address + bytes)
    }
}
