// A loaded dump, and its segments compiled once more to be looked at.
#pragma once

#include "codegen/Compiler.h"
#include "graph/Serialize.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace terra::dump {

/// In the order in which `--stage all` shows them.
inline const std::vector<std::string> kStages = {"trace",   "graph", "segments", "imported",    "fused",
                                                 "lowered", "llvm",  "asm",      "instructions"};

struct CompiledSegment {
  graph::Segment segment;
  graph::Deaths deaths;
  std::map<std::string, std::string> stages; ///< what the compiler said
  std::shared_ptr<const codegen::Executable> executable;
};

class Viewer {
public:
  Viewer(const graph::Dump &dump, std::optional<size_t> only)
      : dump_(dump), only_(only), compiled_(dump.segments.size()) {}

  /// One stage as text, of all segments or of the one that was asked for.
  std::string text(const std::string &stage);
  /// One stage as Graphviz statements inside of a subgraph.
  std::string picture(const std::string &stage);

private:
  std::vector<size_t> shown() const;
  std::string title(size_t index) const;
  std::string segmentText(size_t index);
  std::string compilerText(const std::string &stage, size_t index);
  const CompiledSegment &compiled(size_t index);

  const graph::Dump &dump_;
  std::optional<size_t> only_;
  std::vector<std::unique_ptr<CompiledSegment>> compiled_;
};

/// The event with slots for storages, as `graph::toString(Segment)` prints it.
graph::Event withSlots(const graph::SegmentEvent &event);

// InstructionView.cpp: the instruction list, as text and as nodes joined by the slots that they hand on.
std::string instructionText(const CompiledSegment &segment);
std::string instructionPicture(const CompiledSegment &segment, const std::string &prefix);
/// For each kernel its symbol and the lines of the program that it computes.
std::vector<std::pair<std::string, std::string>> kernelLines(const CompiledSegment &segment);

// IrPicture.cpp: the compiler's text as nodes: ops joined by values, or a box for each function.
std::string valuePicture(const std::string &ir, const std::string &prefix);
std::string functionPicture(const std::string &code, const std::vector<std::pair<std::string, std::string>> &kernels,
                            const std::string &prefix);

} // namespace terra::dump
