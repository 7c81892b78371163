//! Link settings of the BPF target.

fn main() {
    // `array[..]` maps and packed headers need neither sign extension nor byte-wise loads: 32-bit arithmetic and
    // loads at any address are in every kernel this runs on (5.10 and later).
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        println!("cargo:rustc-link-arg-bins=--cpu-features=+alu32,+allows-misaligned-mem-access");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
