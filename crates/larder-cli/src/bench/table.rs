//! [`Table`]: numbers in columns, in as many blocks as the width of a terminal asks for.

/// A table with a label for each line and a heading for each column.
pub(super) struct Table {
    headings: Vec<String>,
    lines: Vec<(String, Vec<String>)>,
}

const GAP: usize = 2;

impl Table {
    pub(super) fn new<H: Into<String>>(headings: impl IntoIterator<Item = H>) -> Table {
        Table { headings: headings.into_iter().map(Into::into).collect(), lines: vec![] }
    }

    /// As many cells as there are headings.
    pub(super) fn line(
        &mut self,
        label: impl Into<String>,
        cells: impl IntoIterator<Item = String>,
    ) {
        self.lines.push((label.into(), cells.into_iter().collect()));
    }

    /// The lines of the table, headings first. Columns that find no room stand in a block below,
    /// with the labels once more.
    pub(super) fn text(&self, width: usize) -> String {
        let labels = self.lines.iter().map(|(label, _)| columns(label)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.lines.iter().map(|(_, cells)| columns(&cells[column]));
                cells.chain([columns(&self.headings[column])]).max().unwrap_or(0) + GAP
            })
            .collect();
        let (mut text, mut from) = (String::new(), 0);
        while from < widths.len() {
            let (mut to, mut used) = (from, labels);
            // One column at least, however narrow the terminal is.
            while to < widths.len() && (to == from || used + widths[to] <= width) {
                used += widths[to];
                to += 1;
            }
            if from > 0 {
                text.push('\n');
            }
            let block = from..to;
            row(&mut text, "", labels, &self.headings[block.clone()], &widths[block.clone()]);
            for (label, cells) in &self.lines {
                row(&mut text, label, labels, &cells[block.clone()], &widths[block.clone()]);
            }
            from = to;
        }
        text
    }
}

fn row(text: &mut String, label: &str, labels: usize, cells: &[String], widths: &[usize]) {
    let mut line = label.to_owned() + &" ".repeat(labels.saturating_sub(columns(label)));
    for (cell, width) in cells.iter().zip(widths) {
        line += &" ".repeat(width.saturating_sub(columns(cell)));
        line += cell;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Columns of a terminal. All that we print takes one for each character.
fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_find_no_room_stand_below() {
        let mut table = Table::new(["one", "two", "three"]);
        table.line("reads", ["1".to_owned(), "22".to_owned(), "333".to_owned()]);
        table.line("µs", ["1,000".to_owned(), "2".to_owned(), "3".to_owned()]);
        assert_eq!(
            table.text(80),
            "         one  two  three\nreads      1   22    333\nµs     1,000    2      3\n"
        );
        assert_eq!(
            table.text(18),
            "         one  two\nreads      1   22\nµs     1,000    2\n\n       three\nreads    333\nµs         3\n"
        );
        assert_eq!(table.text(1).lines().count(), 11);
    }
}
