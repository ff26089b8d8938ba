//! A case's cache filled by the library's own append: the path of a server, from the model's K and V to pages.
//!
//! What lies in the pages afterwards is compared with [`Paged`], which has what the reference quantiser makes, and poison
//! wherever no token is.
use super::format;
use super::paged::Paged;
use super::run::{DeviceCase, Work};
use crate::{Append, CacheFor, Error, Format, KernelId, KvCache, NewTokens, SlotMapping};

/// K and V `[kv_heads, tokens, D]` of tokens that go to `slots`.
struct Tokens<'t> {
    sides: [&'t [f32]; 2],
    slots: &'t [i64],
}

impl Work for Tokens<'_> {
    type Done = KernelId;

    fn run<Q: Format, K: CacheFor<Q>>(&self, on: &DeviceCase<'_>, cache: KvCache<'_, K>) -> Result<KernelId, Error> {
        let upload = |bytes: &[u8]| {
            let buffer = on.device.alloc(bytes.len().max(16))?;
            buffer.write(bytes).map(|()| buffer)
        };
        let [k, v] = self.sides.map(|side| upload(&format::encode_bytes(Q::DTYPE, side)));
        let (k, v) = (k?, v?);
        let slots = upload(&self.slots.iter().flat_map(|slot| slot.to_le_bytes()).collect::<Vec<_>>())?;
        let (tokens, d) = (self.slots.len(), on.case.head_dim);
        let rows = |span| NewTokens::<Q>::with_strides(span, [tokens, on.case.kv_heads, d], [d, tokens * d]);
        let append = Append::new(rows(&k)?, rows(&v)?, &cache, SlotMapping::new(&slots, tokens)?)?;
        let stream = on.device.default_stream();
        append.launch_checked(&stream)?;
        stream.synchronize()?;
        Ok(append.kernel())
    }
}

impl DeviceCase<'_> {
    /// Appends K and V, `[kv_heads, tokens, D]` in the queries' format, a slot a token. Gives the kernel that did it.
    ///
    /// # Errors
    /// Slots that are not in the cache or are given twice, or the device's own error.
    pub fn append(&self, sides: [&[f32]; 2], slots: &[i64]) -> Result<KernelId, Error> {
        self.with_cache(&Tokens { sides, slots })
    }

    /// Where the cache's bytes are not those of `paged`, in words.
    ///
    /// # Errors
    /// The device's own error.
    pub fn differs(&self, paged: &Paged) -> Result<Option<String>, Error> {
        for (index, (buffer, right)) in self.cache.iter().zip(&paged.buffers).enumerate() {
            // No buffer is below 16 bytes: a small one has some that are nobody's behind its last.
            let mut found = vec![0; right.len()];
            self.device.read(buffer.address(), &mut found)?;
            let mut wrong = found.iter().zip(right).enumerate().filter(|(_, (found, right))| found != right);
            if let Some((at, (byte, expected))) = wrong.next() {
                let (count, bytes) = (1 + wrong.count(), right.len());
                return Ok(Some(format!(
                    "{count} of {bytes} bytes of buffer {index} are not the reference's, the first at {at}: {byte:#04x}, \
                     not {expected:#04x}"
                )));
            }
        }
        Ok(None)
    }
}
