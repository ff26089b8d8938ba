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
