/**
 * Figures out of two answers of /ops/status. Its metrics are cumulative, as Prometheus has them, so that rates and quantiles are
 * those of the time between the two.
 */

/** @typedef {{name: string, labels: Record<string, string>, value: number, buckets?: {upTo: number, count: number}[]}} Metric */
/** @typedef {{at: number, status: any, metrics: Metric[]}} Sample at is in milliseconds */

/** @param {Metric[]} metrics @param {string} name @param {Record<string, string>} labels */
function matching(metrics, name, labels) {
  return metrics.filter((m) => m.name === name && Object.entries(labels).every(([key, value]) => m.labels[key] === value));
}

/** @param {Metric[]} metrics @param {string} name @param {Record<string, string>} [labels] */
export function sum(metrics, name, labels = {}) {
  return matching(metrics, name, labels).reduce((total, m) => total + m.value, 0);
}

/**
 * How much a counter grows in a second; NaN without an earlier answer, or when the process was started anew in between.
 * @param {Sample | undefined} before @param {Sample} now @param {string} name @param {Record<string, string>} [labels]
 */
export function rate(before, now, name, labels = {}) {
  if (!before || now.at <= before.at) return NaN;
  const grown = sum(now.metrics, name, labels) - sum(before.metrics, name, labels);
  return grown < 0 ? NaN : grown / ((now.at - before.at) / 1000);
}

/**
 * A quantile of the time to answer, in seconds, interpolated in its bucket; NaN when there were no answers.
 * @param {Sample} before @param {Sample} now @param {number} q
 */
export function quantile(before, now, q) {
  /** @type {Map<number, number>} */
  const counts = new Map();
  let all = 0;
  for (const [sample, sign] of /** @type {[Sample, number][]} */ ([[now, 1], [before, -1]])) {
    for (const m of matching(sample.metrics, "http_request_seconds", {})) {
      all += sign * m.value;
      for (const b of m.buckets ?? []) counts.set(b.upTo, (counts.get(b.upTo) ?? 0) + sign * b.count);
    }
  }
  if (all <= 0) return NaN;
  let below = 0, floor = 0;
  for (const [upTo, count] of [...counts].sort(([a], [b]) => a - b)) {
    if (count >= q * all) return floor + (upTo - floor) * (count > below ? (q * all - below) / (count - below) : 1);
    below = count;
    floor = upTo;
  }
  return floor; // beyond the last bound
}
