/// A limit in `benches/limits.tsv`.
#[derive(Clone, Copy)]
pub struct Limit {
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

impl Limit {
    /// Returns the limit of a row of this program, or one without numbers.
    pub fn of(program: &str, row: &str) -> Self {
        let lines = include_str!("../limits.tsv").lines().map(|line| line.split('\t'));
        for cells in lines.map(Iterator::collect::<Vec<_>>) {
            if let [of, name, kind, number] = *cells
                && (of, name) == (program, row)
            {
                let number = Some(number.parse().expect("a number"));
                return match kind {
                    "at most" => Self { at_most: number, at_least: None },
                    "at least" => Self { at_most: None, at_least: number },
                    other => panic!("neither at most nor at least: {other}"),
                };
            }
        }
        Self { at_most: None, at_least: None }
    }

    pub fn is_miss(self, value: f64) -> bool {
        self.at_most.is_some_and(|most| value > most)
            || self.at_least.is_some_and(|least| value < least)
    }

    pub fn verdict(self, value: f64) -> &'static str {
        match self.at_most.or(self.at_least) {
            None => "",
            Some(_) if self.is_miss(value) => "MISS",
            Some(_) => "ok",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match (self.at_most, self.at_least) {
            (Some(most), _) => format!("at most {most}"),
            (_, Some(least)) => format!("at least {least}"),
            _ => "reference".to_owned(),
        };
        f.pad(&text)
    }
}
