//! Tables that fit: columns are left out before a word is broken.

use super::output;
use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table};

/// Blanks between two columns.
const GAP: usize = 2;
/// A column of prose is not made narrower than this.
const PROSE_MIN: usize = 24;

/// How a column behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    /// The greatest goes first where the terminal is too narrow; 0 never goes.
    spare: u8,
    right: bool,
    prose: bool,
    squeezed: bool,
}

impl Column {
    /// A column that is always there.
    pub(super) const fn new(title: &'static str) -> Self {
        Self { title, spare: 0, right: false, prose: false, squeezed: false }
    }

    /// Left out where the terminal is too narrow, the greatest `order` first.
    pub(super) const fn spare(self, order: u8) -> Self {
        Self { spare: order, ..self }
    }

    /// Aligned to the right.
    pub(super) const fn right(self) -> Self {
        Self { right: true, ..self }
    }

    /// Wrapped where the terminal is too narrow even for the columns that are always there.
    pub(super) const fn squeezed(self) -> Self {
        Self { squeezed: true, ..self }
    }

    /// Sentences: wrapped between words where the terminal is too narrow.
    pub(super) const fn prose(self) -> Self {
        Self { prose: true, ..self }
    }
}

/// A cell: text, and what it means.
#[derive(Debug, Clone)]
pub(super) struct Text {
    text: String,
    tone: Tone,
}

/// What a cell means, shown as a colour where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Changing,
    Bad,
}

impl Text {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// Where a table is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    /// In characters; `None` without a terminal: as wide as it gets.
    pub(super) width: Option<usize>,
    /// Whether colours may be used.
    pub(super) colours: bool,
}

impl Screen {
    /// Standard output as it is.
    pub(super) fn stdout() -> Self {
        Self { width: output::width(&std::io::stdout()), colours: output::colours() }
    }
}

/// Writes a table without lines around it. Rows shorter than `columns` are filled up.
pub(super) fn render(columns: &[Column], rows: &[Vec<Text>], screen: Screen) -> String {
    let width_of = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(Text::width);
        let content = cells.chain([columns[i].title.chars().count()]).max().unwrap_or(0);
        if columns[i].prose { content.min(PROSE_MIN) } else { content }
    };
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    if let Some(limit) = screen.width {
        loop {
            let wide: usize = shown.iter().map(|i| width_of(*i) + GAP).sum();
            let spare = shown.iter().copied().filter(|i| columns[*i].spare > 0);
            match spare.max_by_key(|i| columns[*i].spare) {
                Some(least) if wide > limit + GAP => shown.retain(|i| *i != least),
                _ => break,
            }
        }
    }

    let wide: usize = shown.iter().map(|i| width_of(*i) + GAP).sum();
    let squeeze = screen.width.is_some_and(|limit| wide > limit + GAP);

    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(limit) = screen.width {
        table.set_width(u16::try_from(limit).unwrap_or(u16::MAX));
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    if screen.colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(shown.iter().map(|i| Cell::new(columns[*i].title)));
    for row in rows {
        table.add_row(shown.iter().map(|i| match row.get(*i) {
            Some(text) => cell(text, screen.colours),
            None => Cell::new(""),
        }));
    }
    for (at, i) in shown.iter().enumerate() {
        let last = at + 1 == shown.len();
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, if last { 0 } else { GAP as u16 }));
            if columns[*i].right {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !(columns[*i].prose || squeeze && columns[*i].squeezed) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
    table.lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

fn cell(text: &Text, colours: bool) -> Cell {
    let cell = Cell::new(&text.text);
    match text.tone {
        _ if !colours => cell,
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Changing => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::new("NAME"),
        Column::new("ADDRESS").spare(1),
        Column::new("LAG").right(),
        Column::new("TEXT").prose(),
    ];

    fn rows() -> Vec<Vec<Text>> {
        let row = |name: &str, lag: &str, text: &str| {
            vec![name.into(), "db-1.example.org:5432".into(), lag.into(), text.into()]
        };
        vec![row("alpha", "0 B", "all is well"), row("b", "16.0 MiB", "it was copied and waits")]
    }

    fn shown(width: Option<usize>) -> String {
        render(&COLUMNS, &rows(), Screen { width, colours: false })
    }

    #[test]
    fn without_a_terminal_everything_is_there() {
        assert_eq!(
            shown(None),
            "NAME   ADDRESS                     LAG  TEXT\n\
             alpha  db-1.example.org:5432       0 B  all is well\n\
             b      db-1.example.org:5432  16.0 MiB  it was copied and waits\n"
        );
    }

    #[test]
    fn a_narrow_terminal_loses_columns_and_wraps_prose_between_words() {
        let text = shown(Some(50));
        assert!(!text.contains("ADDRESS") && text.contains("it was copied and waits"), "{text}");
        let narrow = shown(Some(32));
        assert!(narrow.lines().all(|l| l.chars().count() <= 32), "{narrow}");
        for word in ["alpha", "16.0 MiB", "copied", "waits"] {
            assert!(narrow.contains(word), "{word} is broken:\n{narrow}");
        }
    }

    #[test]
    fn colours_only_where_allowed() {
        let rows = vec![vec![Text::toned("primary", Tone::Good)]];
        let of = |colours| render(&[Column::new("ROLE")], &rows, Screen { width: None, colours });
        assert!(of(true).contains('\x1b') && !of(false).contains('\x1b'));
    }
}
