//! Shared types as map entries of aya's.

/// A type without padding, as the key or the value of a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T>(pub T);

// SAFETY: transparent over a type that is plain data itself.
unsafe impl<T: bytemuck::Pod> aya::Pod for Plain<T> {}
