//! Link settings of the BPF target.

fn main() {
    // 32-bit arithmetic saves sign extensions, and loads at any address save reading headers byte by byte. Every
    // kernel that this runs on has both.
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        println!("cargo:rustc-link-arg-bins=--cpu-features=+alu32,+allows-misaligned-mem-access");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
