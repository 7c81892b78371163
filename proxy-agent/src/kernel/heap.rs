//! The heap of the agent. It is here as this module has the unsafe code.

/// Gives back to the kernel what is free in it, which the allocator keeps otherwise: for the end of work that takes much more
/// memory than what comes of it.
pub fn trim_heap() {
    // SAFETY: it takes a number, and nothing but free memory is given back.
    unsafe { libc::malloc_trim(0) };
}
