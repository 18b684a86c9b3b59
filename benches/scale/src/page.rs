//! Puts what was measured into a page.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

const END: &str = "<!-- end -->";

/// Replaces what stands in a page for a mode: the lines between `<!-- larder-scale: <mode> -->` and
/// `<!-- end -->`.
pub(crate) fn put(path: &Path, mode: &str, text: &str) -> anyhow::Result<()> {
    let attempt = || format!("put the figures of {mode} into {}", path.display());
    let page = fs::read_to_string(path).with_context(attempt)?;
    let page = replaced(&page, mode, text).with_context(attempt)?;
    fs::write(path, page).with_context(attempt)
}

fn replaced(page: &str, mode: &str, text: &str) -> anyhow::Result<String> {
    let begin = format!("<!-- larder-scale: {mode} -->");
    let Some((before, rest)) = page.split_once(&begin) else { bail!("there is no line {begin}") };
    let Some((_, after)) = rest.split_once(END) else { bail!("no line {END} follows {begin}") };
    Ok(format!("{before}{begin}\n{}\n{END}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = "a\n<!-- larder-scale: idle -->\nold\n<!-- end -->\nb\n\
                    <!-- larder-scale: push -->\n<!-- end -->\nc\n";
        let page = replaced(page, "idle", "\nnew\n").unwrap();
        let page = replaced(&page, "push", "pushed").unwrap();
        assert_eq!(
            page,
            "a\n<!-- larder-scale: idle -->\nnew\n<!-- end -->\nb\n\
             <!-- larder-scale: push -->\npushed\n<!-- end -->\nc\n"
        );
        assert!(replaced(&page, "reads", "").is_err());
        assert!(replaced("<!-- larder-scale: idle -->\n", "idle", "").is_err());
    }

    /// The page of the documentation has a place for each mode.
    #[test]
    fn the_page_has_a_place_for_each_mode() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scale.md");
        let page = fs::read_to_string(page).unwrap();
        for mode in crate::MODES {
            replaced(&page, mode, "").unwrap();
        }
    }
}
