//! `data_analyzer`: descriptive statistics of numbers.

mod statistics;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::statistics::{Statistics, correlation, describe};
use super::call::CallError;
use super::definition::{About, FrontTerms, FrontTool, Hints, Shaped, worked};
use super::schema::{Violation, step};
use super::version::Version;

/// Values of all columns together.
const VALUES_MAX: usize = 1_000_000;
const COLUMNS_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 128;
/// Of a list of numbers, which has no names.
const ONLY_COLUMN: &str = "values";
/// A table of nothing but text has as many mistakes as values.
const VIOLATIONS_MAX: usize = 100;
/// As JSON, by column, as numbers and sorted.
const VALUE_HELD_BYTES: usize = 96;
/// Sorting and a dozen sums; the pairs of columns are no more work than that again.
const VALUE_WORK_BYTES: usize = 256;

pub(super) struct DataAnalyzer;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// A list of numbers; or columns, an object of such lists; or rows, a list of objects or of lists. null and "NaN" are
    /// missing values. At most 1,000,000 values in 64 columns.
    #[schemars(extend("type" = ["array", "object"]))]
    data: Value,
    /// Which columns of objects to look at: all that hold nothing but numbers unless given. Names of the columns of rows that are
    /// lists: column_1, column_2 and so on unless given.
    #[serde(default)]
    #[schemars(
        length(min = 1, max = COLUMNS_MAX),
        extend("uniqueItems" = true, "items" = json!({ "type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX }))
    )]
    columns: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Output {
    /// By the column's name; "values" for a list of numbers.
    #[schemars(with = "BTreeMap<String, Statistics>")]
    columns: Map<String, Value>,
    /// Pearson's coefficient of each two columns, by their names, over the rows where both have a number; null where there is
    /// none. Where there are several columns of the same length.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, BTreeMap<String, Option<f64>>>>")]
    correlation: Option<Map<String, Value>>,
    /// Columns that hold something other than numbers, and so were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<String>,
    success: bool,
}

struct Column<'a> {
    name: String,
    /// Where each value is, for naming what is wrong with it.
    values: Vec<(&'a Value, Place)>,
}

/// Below `/parameters/data`.
#[derive(Clone, Copy)]
enum Place {
    Item(usize),
    /// An item of the column of that name.
    Below(usize),
    /// A row, and the field of that name.
    Field(usize),
    /// A row, and a place in it.
    Cell(usize, usize),
}

impl Place {
    /// Where it is in the request, in the column of the name `column`.
    fn pointer(self, column: &str) -> String {
        let place = match self {
            Self::Item(at) => format!("/{at}"),
            Self::Below(at) => format!("{}/{at}", step(column)),
            Self::Field(row) => format!("/{row}{}", step(column)),
            Self::Cell(row, cell) => format!("/{row}/{cell}"),
        };
        format!("/parameters/data{place}")
    }
}

/// A number, nothing, or what is neither.
fn number(value: &Value) -> Result<Option<f64>, ()> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if matches!(text.as_str(), "NaN" | "nan") => Ok(None),
        Value::Number(number) => number.as_f64().filter(|value| value.is_finite()).map(Some).ok_or(()),
        _ => Err(()),
    }
}

static NULL: Value = Value::Null;

/// `data` by columns, and what is wrong with its shape.
fn columns(input: &Input) -> Result<Vec<Column<'_>>, Vec<Violation>> {
    let at = |place: &str, message: &str| Violation::new(format!("/parameters/data{place}"), message);
    let mut found = Complaints::default();
    let mut columns = Vec::new();
    match &input.data {
        Value::Object(lists) => {
            for (name, list) in lists {
                match list {
                    Value::Array(items) => columns.push(Column {
                        name: name.clone(),
                        values: items.iter().enumerate().map(|(at, value)| (value, Place::Below(at))).collect(),
                    }),
                    _ => found.add(|| at(&step(name), "is not a list")),
                }
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let (mut names, mut known): (Vec<&String>, HashSet<&String>) = Default::default();
            for (row, item) in items.iter().enumerate() {
                let Value::Object(fields) = item else {
                    found.add(|| at(&format!("/{row}"), "is not an object, as other rows are"));
                    continue;
                };
                names.extend(fields.keys().filter(|name| known.insert(name)));
                if names.len() > COLUMNS_MAX {
                    return Err(vec![at("", &format!("has more than {COLUMNS_MAX} columns"))]);
                }
            }
            for name in names {
                // A row without the field has no value there.
                let rows = items.iter().enumerate();
                let values = rows.map(|(row, item)| (item.get(name).unwrap_or(&NULL), Place::Field(row))).collect();
                columns.push(Column { name: name.clone(), values });
            }
        }
        Value::Array(items) if items.iter().any(Value::is_array) => {
            let width = items.iter().find_map(Value::as_array).map_or(0, Vec::len);
            let own = |at: usize| format!("column_{}", at + 1);
            let names = input.columns.clone().unwrap_or_else(|| (0..width).map(own).collect());
            if names.len() != width {
                let message = format!("names {} columns, the first row has {width}", names.len());
                found.add(|| Violation::new("/parameters/columns", message));
            }
            for (row, item) in items.iter().enumerate() {
                if item.as_array().is_none_or(|cells| cells.len() != width) {
                    found.add(|| {
                        at(&format!("/{row}"), &format!("is not a row of {width} values, as the first one is"))
                    });
                }
            }
            let cells = |column: usize| {
                let rows = items.iter().enumerate();
                rows.map(|(row, item)| (item.get(column).unwrap_or(&NULL), Place::Cell(row, column))).collect()
            };
            columns.extend(names.into_iter().enumerate().map(|(at, name)| Column { name, values: cells(at) }));
        }
        Value::Array(items) => columns.push(Column {
            name: ONLY_COLUMN.to_owned(),
            values: items.iter().enumerate().map(|(at, value)| (value, Place::Item(at))).collect(),
        }),
        // The schema lets nothing else through.
        _ => found.add(|| at("", "is neither a list nor an object")),
    }
    if columns.len() > COLUMNS_MAX {
        found.add(|| at("", &format!("has more than {COLUMNS_MAX} columns")));
    }
    if columns.iter().map(|column| column.values.len()).sum::<usize>() > VALUES_MAX {
        found.add(|| at("", &format!("has more than {VALUES_MAX} values")));
    }
    found.or(columns)
}

/// A column's name, and what it holds: nothing where a value is missing.
type Numbers = (String, Vec<Option<f64>>);

/// The columns to look at, and the names of those that are left out.
fn chosen(input: &Input) -> Result<(Vec<Numbers>, Vec<String>), Vec<Violation>> {
    let mut all = columns(input)?;
    let named = matches!(&input.data, Value::Object(_))
        || input.data.as_array().is_some_and(|items| items.iter().any(Value::is_object));
    let mut found = Complaints::default();
    if named && let Some(wanted) = &input.columns {
        for (at, name) in wanted.iter().enumerate() {
            if !all.iter().any(|column| column.name == *name) {
                found.add(|| Violation::new(format!("/parameters/columns/{at}"), "is no column of the data"));
            }
        }
        all.retain(|column| wanted.contains(&column.name));
    } else if input.columns.as_ref().is_some_and(|names| names.len() != all.len()) {
        let message = format!("names another number of columns than the data has ({})", all.len());
        found.add(|| Violation::new("/parameters/columns", message));
    } else if let (false, Some(names)) = (named, &input.columns) {
        for (column, name) in all.iter_mut().zip(names) {
            column.name.clone_from(name);
        }
    }
    // A table's other columns may hold anything; what was asked for by name, and a list, must be numbers.
    let may_skip = named && input.columns.is_none();
    let (mut kept, mut skipped) = (Vec::new(), Vec::new());
    for column in all {
        let numbers: Result<Vec<_>, ()> = column.values.iter().map(|(value, _)| number(value)).collect();
        match numbers {
            Ok(numbers) => kept.push((column.name, numbers)),
            Err(()) if may_skip => skipped.push(column.name),
            Err(()) => {
                for (_, place) in column.values.iter().filter(|(value, _)| number(value).is_err()) {
                    found.add(|| Violation::new(place.pointer(&column.name), "is neither a number nor null"));
                }
            }
        }
    }
    found.or((kept, skipped))
}

/// The first of what is wrong, and how much more there is: a table may have a million mistakes.
#[derive(Default)]
struct Complaints {
    found: Vec<Violation>,
    more: usize,
}

impl Complaints {
    fn add(&mut self, complaint: impl FnOnce() -> Violation) {
        if self.found.len() < VIOLATIONS_MAX {
            self.found.push(complaint());
        } else {
            self.more += 1;
        }
    }

    /// `result` where there is none.
    fn or<T>(mut self, result: T) -> Result<T, Vec<Violation>> {
        if self.more > 0 {
            self.found.push(Violation::new("/parameters/data", format!("has {} more of these", self.more)));
        }
        if self.found.is_empty() { Ok(result) } else { Err(self.found) }
    }
}

impl FrontTool for DataAnalyzer {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![
                json!({ "data": [1, 2, 3, 4, 5] }),
                json!({ "data": { "height": [1.6, 1.7, null], "weight": [60, 72, 80] }, "columns": ["height"] }),
            ],
            hints: Hints { read_only: true, idempotent: true, open_world: false },
            ..About::new(
                "data_analyzer",
                "Describes numbers: mean, median, mode, variance, quartiles, skewness, kurtosis, outliers, a histogram, and how \
                 columns correlate.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        chosen(input).err().unwrap_or_default()
    }

    fn holds(&self, input: &Input) -> usize {
        values(&input.data) * VALUE_HELD_BYTES
    }

    async fn run(self: Arc<Self>, input: Arc<Input>, _: FrontTerms) -> Result<Shaped<Output>, CallError> {
        worked(values(&input.data) * VALUE_WORK_BYTES, move || describe_all(&input)).await
    }
}

/// How many values `data` holds.
fn values(data: &Value) -> usize {
    let of = |value: &Value| match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 1,
    };
    match data {
        Value::Array(items) => items.iter().map(of).sum(),
        Value::Object(fields) => fields.values().map(of).sum(),
        _ => 0,
    }
}

fn describe_all(input: &Input) -> Output {
    // Checked before.
    let (columns, skipped) = chosen(input).unwrap_or_default();
    let described = |(name, values): &Numbers| (name.clone(), json!(describe(values)));
    let lengths: Vec<usize> = columns.iter().map(|(_, values)| values.len()).collect();
    let together = lengths.len() > 1 && lengths.windows(2).all(|pair| pair[0] == pair[1]);
    let correlation = together.then(|| correlations(&columns));
    Output { columns: columns.iter().map(described).collect(), correlation, skipped, success: true }
}

fn correlations(columns: &[Numbers]) -> Map<String, Value> {
    let mut table = vec![vec![None; columns.len()]; columns.len()];
    for (i, (_, a)) in columns.iter().enumerate() {
        for (j, (_, b)) in columns.iter().enumerate().skip(i) {
            let r = correlation(a, b);
            table[i][j] = r;
            table[j][i] = r;
        }
    }
    let name = |at: usize| columns[at].0.clone();
    let row = |row: Vec<Option<f64>>| row.into_iter().enumerate().map(|(at, r)| (name(at), json!(r))).collect();
    table.into_iter().enumerate().map(|(at, cells)| (name(at), Value::Object(row(cells)))).collect()
}

#[cfg(test)]
mod tests;
