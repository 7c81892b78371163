//! Texts that many objects have in common.

use std::collections::HashSet;
use std::sync::Arc;

/// A text that never changes. Its clones are the same piece of memory.
pub type Text = Arc<str>;

/// Those of the texts that there are few of and that many objects have. Alike whatever is in it: it only saves memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    known: HashSet<Text>,
    /// With so many, those that no object has any more are looked for.
    most: usize,
}

/// So many texts are no matter.
const FEW: usize = 1024;

impl Texts {
    /// Has it share its memory with the same text elsewhere.
    pub(crate) fn share(&mut self, text: &mut Text) {
        match self.known.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                if self.known.len() >= self.most {
                    self.known.retain(|known| Arc::strong_count(known) > 1);
                    self.most = FEW.max(2 * self.known.len());
                }
                self.known.insert(text.clone());
            }
        }
    }
}

impl PartialEq for Texts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Texts {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_in_memory_once() {
        let mut texts = Texts::default();
        let mut shared = ["n1", "n2", "n1"].map(Text::from);
        shared.iter_mut().for_each(|text| texts.share(text));
        let [one, other, again] = &shared;
        assert!(Arc::ptr_eq(one, again) && !Arc::ptr_eq(one, other));
        assert_eq!(shared, ["n1", "n2", "n1"].map(Text::from));
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let mut texts = Texts::default();
        let mut kept = Text::from("kept");
        texts.share(&mut kept);
        for number in 0..10 * FEW {
            texts.share(&mut Text::from(number.to_string()));
        }
        assert!(texts.known.len() <= FEW && texts.known.contains("kept"), "{}", texts.known.len());
    }
}
