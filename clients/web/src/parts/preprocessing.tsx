import { choose, type Draft, draft, holdsImages, isSizeOpen, preview } from "../draft";
import { baseName, count, decimal, sigma } from "../format";
import { withPath } from "../samples";
import { SkippedList } from "./file-list";
import { Notice } from "./notice";
import { FilePicture } from "./picture";

const PRESETS: Record<string, [string, string]> = {
  imagenet: ["ImageNet", "mean and standard deviation of ImageNet; torchvision, timm"],
  unit: ["0 to 1", "levels divided by 255"],
  tf: ["−1 to 1", "TensorFlow, Keras, MobileNet"],
  caffe: ["Caffe", "BGR, 0 to 255 minus the means of ImageNet"],
  none: ["0 to 255", "levels as they are"],
};

/** Distance in σ that the right preprocessing usually stays below; see docs/input-check.md. */
const USUAL = 0.5;

/** Choose the preprocessing of images by what the network sees. */
export function Preprocessing({ now }: { now: Draft }) {
  const { data, error, loading } = now.preview;
  const images = holdsImages(now.target.picked);
  return (
    <div class="preprocessing" aria-busy={loading}>
      {images && now.model !== null && isSizeOpen(now.model) && <SizeFields now={now} />}
      {images && (data !== null || error !== null) && <Presets now={now} />}
      <div aria-live="polite">
        {loading && <p class="working">Running some samples through the first layers…</p>}
        {error !== null && (
          <Notice tone="bad" title="There is no preview">
            <p>{error}</p>
          </Notice>
        )}
        {data !== null && !loading && error === null && <CheckResult now={now} />}
      </div>
      {data !== null && error === null && <Pictures now={now} />}
    </div>
  );
}

function SizeFields({ now }: { now: Draft }) {
  const field = (side: "height" | "width", label: string) => (
    <div>
      <label for={side}>{label}</label>
      <input
        id={side}
        type="number"
        min={1}
        max={8192}
        value={now[side]}
        onChange={(event) => {
          draft.update({ [side]: Number(event.currentTarget.value) || 224, choice: "auto" });
          void preview();
        }}
      />
    </div>
  );
  return (
    <fieldset class="row">
      <legend>The model takes images of any size. Use the size that it was trained with.</legend>
      {field("height", "Height")}
      {field("width", "Width")}
    </fieldset>
  );
}

function Presets({ now }: { now: Draft }) {
  const { data } = now.preview;
  const ranking = data?.ranking ?? [];
  const ranked = ranking.map((one) => one.name);
  const names = [...ranked, ...Object.keys(data?.presets ?? {}).filter((n) => !ranked.includes(n))];
  const closest = ranking[0]?.name ?? "imagenet";
  const near = (ranking[0]?.distance ?? 0) <= USUAL;
  const chosen = now.choice === "auto" ? closest : now.choice;
  return (
    <fieldset class="presets">
      <legend>Preprocessing</legend>
      {names.map((name) => {
        const rank = ranking.find((one) => one.name === name);
        const [title, text] = PRESETS[name] ?? [name, ""];
        return (
          <label key={name} class="preset">
            <input
              type="radio"
              name="preset"
              value={name}
              checked={chosen === name}
              onChange={() => void choose(name)}
            />
            <span>
              <span class="title">
                {title}
                {rank?.color_order === "bgr" && name !== "caffe" && " (BGR)"}
                {name === ranked[0] && <span class={`tag ${near ? "good" : "warn"}`}>closest</span>}
              </span>
              <span class="hint">{text}</span>
            </span>
            {rank !== undefined && <span class="distance">{sigma(rank.distance)}</span>}
          </label>
        );
      })}
      <label class="preset">
        <input
          type="radio"
          name="preset"
          value="custom"
          checked={chosen === "custom"}
          onChange={() => {
            const form = now.preview.data?.preprocess;
            if (form) draft.update({ custom: JSON.stringify(form, null, 1) });
            void choose("custom");
          }}
        />
        <span>
          <span class="title">Another one</span>
          <span class="hint">as JSON</span>
        </span>
      </label>
      {chosen === "custom" && (
        <div class="custom">
          <label for="custom">Preprocessing as JSON</label>
          <textarea
            id="custom"
            rows={8}
            spellcheck={false}
            value={now.custom}
            onInput={(event) => draft.update({ custom: event.currentTarget.value })}
          />
          <button type="button" class="button" onClick={() => void preview()}>
            Preview
          </button>
        </div>
      )}
      {ranking.length > 0 && (
        <p class="hint">
          The number is the distance of the first layers’ input from what they saw in training, in
          the median channel. Below 0.5 σ is usual for the right preprocessing. The drift of a
          layer, which the run measures, counts all channels and is larger.
        </p>
      )}
    </fieldset>
  );
}

function CheckResult({ now }: { now: Draft }) {
  const check = now.preview.data?.check;
  const closest = now.preview.data?.ranking[0]?.name;
  if (!check) {
    return (
      <Notice tone="info" title="Not checked">
        <p>The model stores no statistics to compare with. Look at the pictures.</p>
      </Notice>
    );
  }
  const nearest = now.preview.data?.ranking[0]?.distance ?? 0;
  if (check.plausible && nearest > USUAL) {
    return (
      <Notice tone="warn" title="Choose the preprocessing of the model’s training">
        <p>
          None of them is within {USUAL} σ, as the right one usually is. The new domain can explain
          that, but the closest is then wrong more often than right.
        </p>
      </Notice>
    );
  }
  if (check.plausible) {
    const distance =
      check.distance === null ? "" : ` (${sigma(check.distance)} from it in the median channel)`;
    return (
      <Notice tone="good" title="The input looks right">
        <p>The first layers see about what they saw in training{distance}.</p>
      </Notice>
    );
  }
  return (
    <Notice tone="bad" title="The input cannot be right">
      {check.findings.map((finding) => (
        <p key={finding.cause}>
          {capital(finding.message)} {capital(finding.suggestion)}
        </p>
      ))}
      {closest !== undefined && now.choice !== "auto" && now.choice !== closest && (
        <button type="button" class="button" onClick={() => void choose(closest)}>
          Use {PRESETS[closest]?.[0] ?? closest}
        </button>
      )}
      <label class="check">
        <input
          type="checkbox"
          checked={now.allowMismatch}
          onChange={(event) => draft.update({ allowMismatch: event.currentTarget.checked })}
        />
        Continue anyway
      </label>
    </Notice>
  );
}

function capital(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

function Pictures({ now }: { now: Draft }) {
  const { data, samples } = now.preview;
  if (data === null) return null;
  const original = (name: string) => samples?.pictures.get(name);
  return (
    <>
      <ul class="previews">
        {data.pictures.map((picture) => {
          const file = original(picture.name);
          const name = file?.path ?? picture.name;
          return (
            <li key={picture.name}>
              <figure>
                <div class="pair">
                  {file && <FilePicture file={file.file} alt={`${name} as it is`} />}
                  <img
                    class="picture seen"
                    src={`data:image/png;base64,${picture.png}`}
                    alt={`${name} as the network sees it`}
                  />
                </div>
                <figcaption>
                  <span class="path">{baseName(name)}</span>
                  <span class="hint">
                    {picture.width} × {picture.height}, values {decimal(picture.minimum)} to{" "}
                    {decimal(picture.maximum)}
                  </span>
                </figcaption>
              </figure>
            </li>
          );
        })}
      </ul>
      <p class="hint">{count(data.samples, "sample")} were checked.</p>
      <SkippedList
        skipped={data.skipped.map(({ name, reason }) => {
          const path = original(name)?.path ?? name;
          return { path, reason: withPath(reason, name, path) };
        })}
      />
    </>
  );
}
