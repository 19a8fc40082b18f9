// Draws the panels of a dashboard with Grafana's own components, from what Prometheus returned.
import { createTheme, dateTime, FieldType, getDisplayProcessor, reduceField } from "@grafana/data";
import { BigValue, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";
import { panels, from, to } from "data";

const CELL = { x: 56, y: 36, gap: 8 };
const theme = createTheme({ colors: { mode: "light" } });
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };

/** One frame a series, named by the legend, with units, thresholds and mappings as Grafana applies them. */
function frames({ fieldConfig, series }) {
  const { defaults } = fieldConfig;
  const color = { mode: defaults.thresholds ? "thresholds" : "palette-classic" };
  return series.map(({ name, values }, seriesIndex) => {
    const time = { name: "Time", type: FieldType.time, values: values.map(([seconds]) => seconds * 1000), config: {} };
    const numbers = values.map(([, value]) => (value === "NaN" ? null : Number(value)));
    const config = { color, ...defaults, displayNameFromDS: name };
    const field = { name: "Value", type: FieldType.number, values: numbers, config, state: { seriesIndex } };
    field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
    time.display = getDisplayProcessor({ field: time, theme, timeZone: "utc" });
    return { fields: [time, field], length: values.length };
  });
}

function Stat({ panel, width, height }) {
  const field = frames(panel)[0].fields[1];
  const value = field.display(reduceField({ field, reducers: ["lastNotNull"] }).lastNotNull);
  const colorMode = panel.options?.colorMode ?? "value";
  return <BigValue value={value} theme={theme} width={width} height={height} colorMode={colorMode} graphMode="none" />;
}

function Series({ panel, width, height }) {
  const legend = { displayMode: "list", placement: "bottom", showLegend: true, calcs: [] };
  const props = { frames: frames(panel), width, height, timeRange, timeZone: "utc", legend, structureRev: 1 };
  return <TimeSeries {...props} />;
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const width = w * CELL.x - CELL.gap;
  const height = h * CELL.y - CELL.gap;
  const box = { position: "absolute", left: x * CELL.x, top: y * CELL.y, width, height };
  const Drawn = panel.type === "stat" ? Stat : Series;
  return (
    <section style={{ ...box, border: "1px solid #ddd", borderRadius: 2 }}>
      <h6 style={{ font: "500 14px Inter, Helvetica, sans-serif", margin: "7px 8px 0", height: 20 }}>{panel.title}</h6>
      <div style={{ padding: "0 8px" }}>
        <Drawn panel={panel} width={width - 18} height={height - 38} />
      </div>
    </section>
  );
}

createRoot(document.body).render(panels.map((panel) => <Panel key={panel.id} panel={panel} />));
