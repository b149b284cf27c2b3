//! The statistics of one column, and how two columns go together. Definitions are those of numpy and scipy, named with each.

use schemars::JsonSchema;
use serde::Serialize;

/// Of a column. Null where there is none: of no value at all, of a single one, of values that are all the same, or beyond what
/// a 64-bit float holds.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct Statistics {
    /// Values that are numbers.
    pub count: usize,
    /// Values that are null or "NaN"; nothing below counts them.
    pub missing: usize,
    pub sum: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub mean: Option<f64>,
    pub median: Option<f64>,
    /// The most frequent value, the smallest where there are several, as `scipy.stats.mode` has it.
    pub mode: Option<f64>,
    pub mode_count: usize,
    /// Of a sample: divided by n - 1, `numpy.var(ddof=1)`.
    pub variance: Option<f64>,
    /// The root of `variance`, `numpy.std(ddof=1)`.
    pub standard_deviation: Option<f64>,
    /// Of the values as all there are: divided by n, `numpy.var`.
    pub population_variance: Option<f64>,
    pub population_standard_deviation: Option<f64>,
    pub quartiles: Option<Quartiles>,
    /// The third moment over the 1.5th power of the second, `scipy.stats.skew`.
    pub skewness: Option<f64>,
    /// The fourth moment over the square of the second, less 3, `scipy.stats.kurtosis`.
    pub kurtosis: Option<f64>,
    pub outliers: Outliers,
    pub histogram: Option<Histogram>,
}

/// Between neighbours in proportion, `numpy.percentile`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub(super) struct Quartiles {
    pub q1: f64,
    pub q2: f64,
    pub q3: f64,
    /// q3 - q1.
    pub interquartile_range: f64,
}

/// Values further from the quartiles than 1.5 times their distance (Tukey, Exploratory Data Analysis, 1977).
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct Outliers {
    pub count: usize,
    /// In the order of the data; the first 100.
    pub values: Vec<f64>,
    /// Where those are in the data.
    pub indices: Vec<usize>,
    pub lower_fence: Option<f64>,
    pub upper_fence: Option<f64>,
}

/// Ten bins of the same width from the least value to the greatest, `numpy.histogram`: the last includes its upper edge.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct Histogram {
    /// One more than bins.
    pub edges: Vec<f64>,
    pub counts: Vec<usize>,
}

const OUTLIERS_SHOWN: usize = 100;
const BINS: usize = 10;

/// Of `values` where they are, `None` where one is missing.
pub(super) fn describe(values: &[Option<f64>]) -> Statistics {
    let present: Vec<f64> = values.iter().copied().flatten().collect();
    let (count, missing) = (present.len(), values.len() - present.len());
    let mut sorted = present.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let moments = Moments::of(&present);
    let quartiles = quartiles(&sorted);
    let (mode, mode_count) = mode(&sorted);
    let of = |get: &dyn Fn(&Moments) -> Option<f64>| moments.as_ref().and_then(get);
    Statistics {
        count,
        missing,
        sum: of(&|m| finite(m.total * m.scale)),
        min: sorted.first().copied(),
        max: sorted.last().copied(),
        mean: of(&|m| finite(m.mean * m.scale)),
        median: quartiles.map(|q| q.q2),
        mode,
        mode_count,
        variance: of(&|m| m.variance(1)),
        // Not the variance's root: that may be beyond all bounds where this is not.
        standard_deviation: of(&|m| m.deviation(1)),
        population_variance: of(&|m| m.variance(0)),
        population_standard_deviation: of(&|m| m.deviation(0)),
        quartiles,
        skewness: of(&Moments::skewness),
        kurtosis: of(&Moments::kurtosis),
        outliers: outliers(values, quartiles),
        histogram: histogram(&sorted),
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A sum whose error does not grow with the number of its terms (Neumaier, ZAMM 54, 1974).
fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for term in terms {
        let next = sum + term;
        lost += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        sum = next;
    }
    sum + lost
}

/// Central moments of values divided by `scale`, a power of two, so that squares and fourth powers neither overflow nor vanish.
struct Moments {
    n: f64,
    scale: f64,
    total: f64,
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
    /// Greatest of the values so divided.
    largest: f64,
}

impl Moments {
    /// `None` of nothing.
    fn of(values: &[f64]) -> Option<Self> {
        let largest = values.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        if values.is_empty() {
            return None;
        }
        // The exponent of a subnormal number is taken for that of the smallest normal one: dividing by it loses nothing.
        let exponent = ((largest.to_bits() >> 52) as i32 - 1023).clamp(-1022, 1022);
        let scale = if largest == 0.0 { 1.0 } else { 2.0_f64.powi(exponent) };
        let scaled = || values.iter().map(|v| v / scale);
        let n = values.len() as f64;
        let total = sum(scaled());
        let mean = total / n;
        let moment = |power: i32| sum(scaled().map(|v| (v - mean).powi(power))) / n;
        Some(Self {
            n,
            scale,
            total,
            mean,
            second: moment(2),
            third: moment(3),
            fourth: moment(4),
            largest: largest / scale,
        })
    }

    fn of_sample(&self, less: u32) -> Option<f64> {
        let degrees = self.n - f64::from(less);
        (degrees > 0.0).then(|| self.second * self.n / degrees)
    }

    fn variance(&self, less: u32) -> Option<f64> {
        finite(self.of_sample(less)? * self.scale * self.scale)
    }

    fn deviation(&self, less: u32) -> Option<f64> {
        finite(self.of_sample(less)?.sqrt() * self.scale)
    }

    /// Whether all values are the same but for rounding: scipy's bound, below which what is left is noise.
    fn is_constant(&self) -> bool {
        let bound = f64::EPSILON * self.mean.abs();
        self.second <= bound * bound || self.largest == 0.0
    }

    fn skewness(&self) -> Option<f64> {
        if self.is_constant() { None } else { finite(self.third / self.second.powf(1.5)) }
    }

    fn kurtosis(&self) -> Option<f64> {
        if self.is_constant() { None } else { finite(self.fourth / (self.second * self.second) - 3.0) }
    }
}

fn mode(sorted: &[f64]) -> (Option<f64>, usize) {
    let runs = sorted.chunk_by(|a, b| a == b);
    // The first of the longest, which is the smallest.
    let longest = runs.fold(&[][..], |longest: &[f64], run| if run.len() > longest.len() { run } else { longest });
    (longest.first().copied(), longest.len())
}

fn quartiles(sorted: &[f64]) -> Option<Quartiles> {
    let at = |quarter: usize| {
        let position = quarter * sorted.len().checked_sub(1)?;
        let (below, part) = (position / 4, (position % 4) as f64 / 4.0);
        let (a, b) = (*sorted.get(below)?, *sorted.get(below + 1).or(sorted.get(below))?);
        // Halves of the distance, because the distance itself may be beyond all bounds.
        Some(if (b - a).is_finite() { a + (b - a) * part } else { a * (1.0 - part) + b * part })
    };
    let (q1, q2, q3) = (at(1)?, at(2)?, at(3)?);
    Some(Quartiles { q1, q2, q3, interquartile_range: finite(q3 - q1).unwrap_or(f64::MAX) })
}

fn outliers(values: &[Option<f64>], quartiles: Option<Quartiles>) -> Outliers {
    let mut found =
        Outliers { count: 0, values: Vec::new(), indices: Vec::new(), lower_fence: None, upper_fence: None };
    let Some(Quartiles { q1, q3, interquartile_range, .. }) = quartiles else { return found };
    let (lower, upper) = (q1 - 1.5 * interquartile_range, q3 + 1.5 * interquartile_range);
    (found.lower_fence, found.upper_fence) = (finite(lower), finite(upper));
    for (index, value) in values.iter().enumerate() {
        let Some(value) = *value else { continue };
        if value < lower || value > upper {
            found.count += 1;
            if found.values.len() < OUTLIERS_SHOWN {
                found.values.push(value);
                found.indices.push(index);
            }
        }
    }
    found
}

/// `None` where the distance between the least and the greatest is beyond all bounds.
fn histogram(sorted: &[f64]) -> Option<Histogram> {
    let (mut least, mut most) = (*sorted.first()?, *sorted.last()?);
    if least == most {
        (least, most) = (least - 0.5, most + 0.5);
    }
    let width = finite(most - least)? / BINS as f64;
    let mut edges: Vec<f64> = (0..=BINS).map(|bin| least + bin as f64 * width).collect();
    edges[BINS] = most;
    let mut counts = vec![0; BINS];
    for value in sorted {
        let guess = (((value - least) / (most - least)) * BINS as f64) as usize;
        let mut bin = guess.min(BINS - 1);
        // The edges decide, not the division that guessed.
        if *value < edges[bin] && bin > 0 {
            bin -= 1;
        } else if bin < BINS - 1 && *value >= edges[bin + 1] {
            bin += 1;
        }
        counts[bin] += 1;
    }
    Some(Histogram { edges, counts })
}

/// Pearson's coefficient over the places where both have a number, `numpy.corrcoef`; `None` of fewer than two such places, or
/// where one of the two is constant there.
pub(super) fn correlation(a: &[Option<f64>], b: &[Option<f64>]) -> Option<f64> {
    let pairs = || a.iter().zip(b).filter_map(|(a, b)| Some(((*a)?, (*b)?)));
    let one: Vec<f64> = pairs().map(|(a, _)| a).collect();
    let other: Vec<f64> = pairs().map(|(_, b)| b).collect();
    let (x, y) = (Moments::of(&one)?, Moments::of(&other)?);
    if one.len() < 2 || x.is_constant() || y.is_constant() {
        return None;
    }
    let products = one.iter().zip(&other).map(|(a, b)| (a / x.scale - x.mean) * (b / y.scale - y.mean));
    let together = sum(products) / x.n;
    // Rounding may lead beyond the bounds that it has.
    finite(together / (x.second * y.second).sqrt()).map(|r| r.clamp(-1.0, 1.0))
}
