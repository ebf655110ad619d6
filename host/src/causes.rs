//! Errors with their sources: the chain of causes, and its text in one line.

use std::{error::Error, iter};

/// The error and its sources, from the outermost to the innermost.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// The texts of an error and of all its sources in one line, separated by `": "`.
///
/// A text that equals the one before it is left out: some libraries wrap an error and repeat its text.
pub fn in_one_line(error: &dyn Error) -> String {
    let sources = error.source().into_iter().flat_map(chain).map(ToString::to_string);
    let mut texts: Vec<String> = iter::once(error.to_string()).chain(sources).collect();
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn all_causes_stand_in_one_line_and_a_repeated_text_once() {
        let layers = ["refused", "refused", "connecting", "saving"];
        let error = layers.iter().fold(None, |cause, text| Some(Box::new(Layer(text, cause)))).unwrap();
        assert_eq!(in_one_line(&*error), "saving: connecting: refused");
        assert_eq!(chain(&*error).count(), 4);
    }
}
