declare module "*/report.js" {
  export function showLayers(report: Document, text: string): string;
}
