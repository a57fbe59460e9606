import { type Model, sentence } from "../api";
import { bytes, count, shape } from "../format";
import { Notice } from "./notice";

interface Props {
  model: Model;
  name: string;
  onChange: () => void;
}

/** An uploaded model: its inputs, layers and warnings. */
export function ModelCard({ model, name, onChange }: Props) {
  const usable = model.layers.filter((layer) => layer.reason === null).length;
  return (
    <div class="card">
      <div class="heading">
        <div>
          <p class="title">{name}</p>
          <p class="hint">{bytes(model.bytes)}</p>
        </div>
        <button type="button" class="button quiet" onClick={onChange}>
          Change
        </button>
      </div>
      <dl class="facts">
        {model.inputs.map((input) => (
          <div key={input.name}>
            <dt>
              Input <code>{input.name}</code>
            </dt>
            <dd>
              {shape(input.shape)} <span class="hint">{input.dtype}</span>
            </dd>
          </div>
        ))}
        <div>
          <dt>BatchNorm layers</dt>
          <dd>{usable === model.layers.length ? usable : `${usable} of ${model.layers.length}`}</dd>
        </div>
      </dl>
      {model.layers.length > 0 && (
        <details class="files">
          <summary>Show {count(model.layers.length, "layer")}</summary>
          <ul tabIndex={0} aria-label="Layers">
            {model.layers.map((layer) => (
              <li key={layer.name}>
                <span class="path">{layer.name}</span>
                <span class="size">
                  {layer.channels === null ? "" : count(layer.channels, "channel")}
                </span>
                {layer.reason !== null && <span class="reason">{layer.reason}</span>}
              </li>
            ))}
          </ul>
        </details>
      )}
      {model.needs_source_batches ? (
        <Notice tone="info" title="Its BatchNorm layers are folded or missing">
          <p>Some data that the model was trained on brings them back: add it below.</p>
        </Notice>
      ) : (
        model.warnings.map((warning) => (
          <Notice key={warning} tone="warn">
            <p>{sentence(warning)}</p>
          </Notice>
        ))
      )}
    </div>
  );
}
