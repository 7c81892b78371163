//! Internet checksums: RFC 1071, and RFC 1624 for changes.
//!
//! Sums are of words as they lie in memory, in the machine's order: the ones' complement sum does not mind, as long as the result is
//! stored the same way. Nor does it mind whether two words of 16 bits are added one by one or as one of 32 (RFC 1071 §2).

use crate::addr::Address;

/// A growing sum of words of 16 or 32 bits, not yet folded. Room for 65,535 words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Adds two bytes.
    #[inline(always)]
    pub fn add(&mut self, word: [u8; 2]) {
        self.0 += u64::from(u16::from_ne_bytes(word));
    }

    /// Adds four bytes.
    #[inline(always)]
    pub fn add4(&mut self, words: [u8; 4]) {
        self.0 += u64::from(u32::from_ne_bytes(words));
    }

    /// Adds an address.
    #[inline(always)]
    pub fn add_address<A: Address>(&mut self, address: A) {
        self.0 += address.sum();
    }

    /// Takes two bytes out and puts two others in.
    #[inline(always)]
    pub fn replace(&mut self, old: [u8; 2], new: [u8; 2]) {
        self.0 += u64::from(!u16::from_ne_bytes(old)) + u64::from(u16::from_ne_bytes(new));
    }

    /// Takes an address out and puts another in.
    #[inline(always)]
    pub fn replace_address<A: Address>(&mut self, old: A, new: A) {
        // The complement of a sum of n words is n × the greatest word less the sum.
        self.0 += (A::LEN as u64 / 4) * u64::from(u32::MAX) - old.sum() + new.sum();
    }

    /// Adds what another sum holds.
    #[inline(always)]
    pub fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }

    /// The sum in 16 bits.
    #[inline(always)]
    pub fn folded(self) -> u16 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let twice = (once & 0xffff) + (once >> 16);
        ((twice & 0xffff) + (twice >> 16)) as u16
    }

    /// The checksum of the words added.
    #[inline(always)]
    pub fn checksum(self) -> [u8; 2] {
        (!self.folded()).to_ne_bytes()
    }

    /// What a checksum becomes when the words that it covers change by this.
    #[inline(always)]
    pub fn applied_to(mut self, checksum: [u8; 2]) -> [u8; 2] {
        self.add((!u16::from_ne_bytes(checksum)).to_ne_bytes());
        self.checksum()
    }

    /// What a sum that is not complemented, as that of a pseudo header, becomes when its words change by this.
    #[inline(always)]
    pub fn added_to(mut self, sum: [u8; 2]) -> [u8; 2] {
        self.add(sum);
        self.folded().to_ne_bytes()
    }

    /// Whether there is nothing to change.
    #[inline(always)]
    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Whether no checksum changes by this: nothing does, or what does has the same sum.
    #[inline(always)]
    pub fn is_neutral(self) -> bool {
        matches!(self.folded(), 0 | 0xffff)
    }
}

/// A UDP checksum that comes out as 0 is sent as 0xffff: 0 would mean none (RFC 768).
#[inline(always)]
pub fn never_zero(checksum: [u8; 2]) -> [u8; 2] {
    if u16::from_ne_bytes(checksum) == 0 { [0xff; 2] } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Ipv4;

    /// The checksum of some words.
    fn of(words: &[[u8; 2]]) -> [u8; 2] {
        let mut sum = Delta::default();
        words.iter().for_each(|word| sum.add(*word));
        sum.checksum()
    }

    #[test]
    fn a_change_makes_of_a_checksum_what_the_changed_words_have() {
        for (old, new) in [([1, 2], [3, 4]), ([0xff, 0xff], [0, 1]), ([0, 0], [0xff, 0xfe]), ([9, 9], [9, 9])] {
            let mut change = Delta::default();
            change.replace(old, new);
            assert_eq!(change.applied_to(of(&[old, [7, 7]])), of(&[new, [7, 7]]), "{old:?} {new:?}");
            // A sum as CHECKSUM_PARTIAL has it, not complemented.
            let sum = |word| (!u16::from_ne_bytes(of(&[word, [7, 7]]))).to_ne_bytes();
            assert_eq!(change.added_to(sum(old)), sum(new), "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_full_sum_folds() {
        for words in [1, 2, 3, 0xfffe, 0xffff] {
            let mut sum = Delta::default();
            (0..words).for_each(|_| sum.add4([0xff; 4]));
            assert_eq!(sum.folded(), 0xffff, "{words}");
            // One short of it, whichever word that is in.
            sum.replace([0xff, 0xff], 0xfffe_u16.to_ne_bytes());
            assert_eq!(sum.folded(), 0xfffe, "{words}");
        }
    }

    #[test]
    fn addresses_of_one_sum_change_no_checksum() {
        let change = |new| {
            let mut change = Delta::default();
            change.replace_address(Ipv4::new([10, 96, 2, 155]), Ipv4::new(new));
            change
        };
        for (new, is_neutral) in [([10, 244, 2, 7], true), ([10, 96, 2, 155], true), ([10, 244, 2, 8], false)] {
            let change = change(new);
            let checksum = [0x12, 0x34];
            assert_eq!(
                (change.is_neutral(), change.applied_to(checksum) == checksum),
                (is_neutral, is_neutral),
                "{new:?}"
            );
        }
        assert!(Delta::default().is_neutral());
    }
}
