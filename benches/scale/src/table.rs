//! [`Table`]: what a mode prints.

use std::fmt;

/// A table as Markdown.
pub(crate) struct Table {
    columns: Vec<&'static str>,
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(columns: [&'static str; N]) -> Table {
        Table { columns: columns.to_vec(), lines: vec![] }
    }

    /// Adds a line. It is also reported at once, since all of it may take minutes.
    pub(crate) fn line<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a cell for each column");
        let named: Vec<String> = self
            .columns
            .iter()
            .zip(&cells)
            .map(|(column, cell)| format!("{column}: {cell}"))
            .collect();
        eprintln!("{}", named.join(", "));
        self.lines.push(cells.to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        write!(f, "|{}", " --- |".repeat(self.columns.len()))?;
        for line in &self.lines {
            write!(f, "\n| {} |", line.join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new(["caches", "Redis"]);
        table.line(["8".to_owned(), "0.5 %".to_owned()]);
        assert_eq!(table.to_string(), "| caches | Redis |\n| --- | --- |\n| 8 | 0.5 % |");
    }
}
