import type { MeasuredLayer } from "../api";
import { sigma } from "../format";

const HEIGHT = 168;
const TOP = 18;
const BOTTOM = HEIGHT - 6;
const FILL = 0.74;
// Gaps of less than a pixel, between many bars, would show as a pattern.
const MANY_LAYERS = 150;
const WIDEST = 3.2;
const MAX_TICKS = 4;
// Smaller drift is noise, and would look large on a scale of its own.
const MIN_SCALE = 0.05;
// A single bar that is this many times longer than the next is cut, so that the others show.
const OUTLIER = 5;

/** A run while it measures: one bar for each layer, in the order of execution. */
export function LayerChart({ layers, total }: { layers: MeasuredLayer[]; total: number }) {
  const drifts = layers.map((layer) => layer.drift ?? 0);
  const scale = scaleOf(drifts);
  const step = stepOf(scale);
  const end = step * Math.ceil(scale / step - 1e-9);
  const slot = 100 / Math.max(total, layers.length, 1);
  const width = Math.min(slot * (total < MANY_LAYERS ? FILL : 1), WIDEST);
  const y = (drift: number) => BOTTOM - (BOTTOM - TOP) * Math.min(drift / end, 1);
  const ticks = Array.from({ length: Math.round(end / step) + 1 }, (_, place) => step * place);
  const largest = Math.max(...drifts, 0);
  const percent = (value: number) => `${value.toFixed(3)}%`;
  return (
    <div class="layer-chart">
      <svg class="axis" width={44} height={HEIGHT} aria-hidden="true">
        {ticks.map((tick) => (
          <text key={tick} x={38} y={y(tick) + 4}>
            {Number(tick.toFixed(2)).toLocaleString("en-US")}
          </text>
        ))}
      </svg>
      <svg
        class="bars"
        width="100%"
        height={HEIGHT}
        role="img"
        aria-label={`Drift of ${layers.length} of ${total} layers; the largest is ${sigma(largest)}.`}
      >
        {ticks.map((tick) => (
          <line key={tick} class="grid" x1="0" x2="100%" y1={y(tick)} y2={y(tick)} />
        ))}
        {layers.map((layer, place) => {
          const drift = layer.drift ?? 0;
          const x = slot * (place + 0.5);
          return (
            <g key={layer.name}>
              <rect
                x={percent(x - width / 2)}
                width={percent(width)}
                y={y(drift)}
                height={BOTTOM - y(drift)}
              >
                <title>{`${layer.name}: ${driftOf(layer)}`}</title>
              </rect>
              {drift > end && (
                <>
                  <line
                    class="cut"
                    x1={percent(x - width)}
                    x2={percent(x + width)}
                    y1={TOP + 13}
                    y2={TOP + 7}
                  />
                  <text x={percent(x)} y={TOP - 5} class={x > 50 ? "left" : "right"}>
                    {sigma(drift)}
                  </text>
                </>
              )}
            </g>
          );
        })}
      </svg>
    </div>
  );
}

/** Return the drift of a layer as text. */
export function driftOf(layer: MeasuredLayer): string {
  return layer.drift === null ? "not a number" : sigma(layer.drift);
}

function scaleOf(drifts: readonly number[]): number {
  const [top = 0, second = 0] = [...drifts].sort((a, b) => b - a);
  return Math.max(top > OUTLIER * second && second > 0 ? 2 * second : top, MIN_SCALE);
}

/** Return 1, 2 or 5 times a power of ten, so that a few grid lines reach the top. */
function stepOf(top: number): number {
  const power = 10 ** Math.floor(Math.log10(top / MAX_TICKS));
  return power * ([1, 2, 5].find((one) => power * one * MAX_TICKS >= top * (1 - 1e-9)) ?? 10);
}
