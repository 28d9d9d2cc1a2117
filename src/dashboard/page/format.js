// Figures as people read them, each with its unit.

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function formatBytes(bytes) {
  let value = bytes, unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

function formatCount(count) {
  return GROUPED.format(count);
}

function formatShare(part, whole) {
  return whole > 0 ? `${(100 * part / whole).toFixed(1)} %` : "–";
}

/** A time that something takes. */
function formatSeconds(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return formatAge(seconds);
}

const formatMilliseconds = (milliseconds) => formatSeconds(milliseconds / 1000);

/** A time that passes while somebody looks, so in whole seconds. */
function formatAge(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The seconds from one point in time to another, both by the server's clock. */
function secondsBetween(from, to) {
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

function formatClock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

/** A day and a time. */
function formatTime(at) {
  const time = new Date(at);
  return `${time.toLocaleDateString("sv-SE")} ${time.toLocaleTimeString("en-GB")}`;
}

const words = (text) => text.replaceAll("_", " ");
