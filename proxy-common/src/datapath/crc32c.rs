//! CRC32c, the checksum of SCTP (RFC 9260 §6.8 and appendix A), without a look at the data.
//!
//! A CRC is linear: what changes in the message, followed by as many zeros as there is message behind it, has the CRC
//! that the old one and the new one differ by. So the change of a port costs some multiplications in the field of the
//! polynomial, whatever the length of the packet. Bits are mirrored: the first bit of the message is the lowest one.

/// The polynomial, mirrored, without its highest term.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x to the power of 8 · 2^k: what a state is multiplied with to go on by 2^k zero bytes. A packet has less than 2^16.
static POWERS: [u32; 16] = powers();

const fn powers() -> [u32; 16] {
    let mut powers = [0; 16];
    // x^0 is the highest bit.
    let mut power = 1 << (31 - 8);
    let mut k = 0;
    while k < 16 {
        powers[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    powers
}

/// The product of two polynomials. Without branches, as each would double what the verifier has to look at.
#[inline(always)]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & 0_u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

/// The state of a CRC after so many zero bytes more, below 2^16.
///
/// In BPF a *global* function: the verifier goes through its four thousand instructions once, and not for each packet that
/// may come to them (kernel/bpf/verifier.c, `do_check_subprogs`).
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
#[inline(never)]
pub(super) extern "C" fn crc32c_advance(mut state: u32, bytes: u32) -> u32 {
    for (k, power) in POWERS.iter().enumerate() {
        if (bytes >> k) & 1 != 0 {
            state = multiply(state, *power);
        }
    }
    state
}

/// The CRC of some words.
#[inline(always)]
pub(super) fn checksum(words: &[[u8; 4]]) -> [u8; 4] {
    let mut state = u32::MAX;
    for word in words {
        state = crc32c_advance(state ^ u32::from_le_bytes(*word), 4);
    }
    (!state).to_le_bytes()
}

/// The CRC of a message of `length` bytes whose first word is changed.
#[inline(always)]
pub(super) fn replace_first(old: [u8; 4], from: [u8; 4], to: [u8; 4], length: u32) -> [u8; 4] {
    let change = u32::from_le_bytes(from) ^ u32::from_le_bytes(to);
    (u32::from_le_bytes(old) ^ crc32c_advance(change, length)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, bit by bit.
    fn plain(message: &[u8]) -> u32 {
        let mut state = u32::MAX;
        for byte in message {
            state ^= u32::from(*byte);
            for _ in 0..8 {
                state = (state >> 1) ^ if state & 1 == 1 { POLYNOMIAL } else { 0 };
            }
        }
        !state
    }

    #[test]
    fn the_check_value() {
        assert_eq!(plain(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[*b"1234", *b"5678"]), plain(b"12345678").to_le_bytes());
    }

    #[test]
    fn a_changed_word_changes_the_crc_as_a_new_one_would() {
        let mut message = [0x5a_u8; 2_000];
        for length in [4, 5, 12, 16, 17, 100, 1_480, 2_000] {
            let message = &mut message[..length];
            message[..4].copy_from_slice(&[0, 80, 0x9c, 0x40]);
            let old = plain(message).to_le_bytes();
            message[..4].copy_from_slice(&[0x1f, 0x90, 0x04, 0x01]);
            let new = plain(message).to_le_bytes();
            assert_eq!(
                replace_first(old, [0, 80, 0x9c, 0x40], [0x1f, 0x90, 0x04, 0x01], length as u32),
                new,
                "{length}"
            );
        }
    }
}
