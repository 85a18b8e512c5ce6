// terra-dump: shows what terra.dump saved, at every stage from the recorded calls to machine code.
#include "frontend/dump/Graphviz.h"
#include "frontend/dump/Stages.h"
#include "graph/Dot.h"

#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>

namespace {

using namespace terra;

constexpr int kBadInput = 2;

struct Options {
  std::string file, stage = "graph", format = "text", output;
  std::optional<size_t> segment;
};

const char *const kDescription = "Shows what terra.dump(function, FILE) has saved.";
const char *const kStagesHelp = R"(Stages:
  trace         the recorded calls, in the order in which they were learned, and what may come next
  graph         the same as a graph of segments (straight runs of calls)
  segments      each segment as a closed function: its storages, when they die, its calls
  imported      the segment in terra's MLIR dialect
  fused         after fusion: what is computed together
  lowered       kernels as loops, with the memory they use
  llvm, asm     the kernels' LLVM IR (optimised) and machine code
  instructions  the list that is executed: kernels, calls of the host, what each stores and releases
  all           all of these

From "imported" on, segments are compiled again for this machine. Every call carries its line of the program.

Examples:
  terra-dump step.terra.json
  terra-dump step.terra.json --stage fused --segment 0
  terra-dump step.terra.json --stage instructions --format svg -o step.svg)";

std::vector<std::string> withAll() {
  std::vector<std::string> all = dump::kStages;
  all.push_back("all");
  return all;
}

void describe(CLI::App &app, Options &options) {
  app.footer(kStagesHelp);
  app.add_option("FILE", options.file, "A file written by terra.dump")->required();
  app.add_option("--stage", options.stage, "What to show (see below)")
      ->check(CLI::IsMember(withAll()))
      ->capture_default_str()
      ->option_text("STAGE");
  app.add_option("--segment", options.segment, "Only this segment (they are numbered from 0)")
      ->check(CLI::NonNegativeNumber)
      ->option_text("N");
  app.add_option("--format", options.format, "text, dot (Graphviz source) or svg (a picture, drawn by Graphviz)")
      ->check(CLI::IsMember({"text", "dot", "svg"}))
      ->capture_default_str()
      ->option_text("FORMAT");
  app.add_option("-o,--output", options.output, "Write to this file instead of standard output")->option_text("OUT");
}

std::string render(const Options &options, dump::Viewer &viewer) {
  std::vector<std::string> stages = options.stage == "all" ? dump::kStages : std::vector{options.stage};
  bool text = options.format == "text";
  // Graphviz's usual ranking gives up ("trouble in init_rank") where many edges cross the borders of clusters.
  std::string out = text ? "" : "digraph terra {\n  newrank=true;\n" + graph::dotDefaults();
  for (const std::string &stage : stages) {
    if (text && stages.size() > 1)
      out += "==== " + stage + "\n";
    out += text ? viewer.text(stage) : viewer.picture(stage);
  }
  return text ? out : out + "}\n";
}

void write(const std::string &text, const std::string &path) {
  errno = 0;
  if (path.empty()) {
    std::cout << text << std::flush;
    if (!std::cout)
      throw std::runtime_error("writing to standard output failed");
    return;
  }
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file)
    throw std::runtime_error(path + ": cannot be written" + (errno ? std::string(": ") + std::strerror(errno) : ""));
}

void run(const Options &options) {
  graph::Dump loaded = graph::load(options.file);
  if (options.segment && *options.segment >= loaded.segments.size())
    throw std::runtime_error(options.file + ": there is no segment " + std::to_string(*options.segment) +
                             "; the dump has " + std::to_string(loaded.segments.size()));
  dump::Viewer viewer(loaded, options.segment);
  std::string text = render(options, viewer);
  if (options.format == "svg")
    dump::writeSvg(text, options.output);
  else
    write(text, options.output);
}

} // namespace

int main(int argc, char **argv) {
  Options options;
  CLI::App app(kDescription, "terra-dump");
  describe(app, options);
  try {
    app.parse(argc, argv);
    run(options);
  } catch (const CLI::Success &help) {
    return app.exit(help);
  } catch (const CLI::ParseError &error) {
    std::cerr << "terra-dump: " << error.what() << " (terra-dump --help lists the options)\n";
    return kBadInput;
  } catch (const std::exception &error) {
    std::cerr << "terra-dump: " << error.what() << "\n";
    return kBadInput;
  }
  return 0;
}
