// Dump files: what is written can be read back whole; what is damaged is refused in words.
#include "graph/Serialize.h"
#include "graph/Dot.h"
#include "graph/DumpFormat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace terra::graph {
namespace {

using testing::HasSubstr;

Op makeOp(const std::string &name, std::vector<OpParam> params, uint32_t flags = 0) {
  return {name, flags, std::move(params), viewRuleOf(name)};
}

TensorMeta makeMeta(std::vector<int64_t> dims, DType dtype = DType::Float32) {
  TensorMeta meta;
  meta.dtype = dtype;
  meta.dims = std::move(dims);
  return meta;
}

Arg makeArg(ArgKind kind, int64_t value = 0) {
  Arg arg;
  arg.kind = kind;
  arg.scalar.i = value;
  return arg;
}

/// A branch after node 2 and a loop over node 4, with every kind of argument.
class SerializeTest : public testing::Test {
protected:
  Op add = makeOp("test::add", {{"self", true}, {"others", false}, {"alpha", false}});
  Op select = makeOp("aten::select.int", {{"self", false}, {"dim", false}, {"index", false}}, kOpViewOnly);
  Op many = makeOp("test::many", {}, kOpRandom | kOpMayFailOnData);
  Dump dump;

  void SetUp() override {
    dump.function = "Trainer.step";
    NodeId a = dump.graph.addNode(addEvent()), b = dump.graph.addNode(selectEvent()),
           c = dump.graph.addNode(manyEvent());
    dump.graph.addEdge(TraceGraph::kStart, a);
    dump.graph.addEdge(a, b);
    dump.graph.addEdge(a, c);
    dump.graph.addEdge(b, TraceGraph::kEnd);
    dump.graph.addEdge(c, c);
    dump.graph.addEdge(c, TraceGraph::kEnd);
    dump.graph.setBoundary(b);
    dump.segments.push_back({{a}, {kNever, 1, kNever}, 7, ""});
    dump.segments.push_back({{b}, {}, 0, "no \"code\"\nat all"});
    dump.segments.push_back({{c}, {}, 2, ""});
    ASSERT_EQ(dump.segment(0).slots.size(), 3u);
  }

  std::shared_ptr<Event> addEvent() {
    auto event = std::make_shared<Event>();
    event->op = &add;
    event->location = "train <1>.py:12 in \"forward\" < \xc3\xa9t\xc3\xa9.py:3";
    event->context = ~uint64_t(0);
    event->whole = 2;
    event->trace = 3;
    Operand self{0, makeMeta({2, 3, 3, 1}), true, false},
        other{1, makeMeta({2, 3, 1, 2}, DType::BFloat16), false, true};
    other.meta.offset = 5;
    other.meta.device = {DeviceType::CUDA, 1};
    other.meta.conj = other.meta.neg = other.meta.requiresGrad = true;
    event->inputs = {self, other, {}};
    event->args = {makeArg(ArgKind::Tensor), makeArg(ArgKind::TensorList), makeArg(ArgKind::NumberDouble)};
    event->args[0].count = 1;
    event->args[1].first = 1;
    event->args[1].count = 2;
    event->args[2].scalar.d = 0.1;
    event->args[2].varies = true;
    event->results = {{0, self.meta, Alias::Same, 0, 0}, {2, makeMeta({4, 1}, DType::Int64), Alias::Fresh, 0, 32}, {}};
    event->resultCounts = {-1, 2};
    return event;
  }

  std::shared_ptr<Event> selectEvent() {
    auto event = std::make_shared<Event>();
    event->op = &select;
    event->inputs = {{7, makeMeta({4, 2, 2, 1}), false, false}};
    event->args = {makeArg(ArgKind::Tensor), makeArg(ArgKind::Int), makeArg(ArgKind::Int, -3)};
    event->args[0].count = 1;
    event->args[2].varies = true;
    event->results = {{7, makeMeta({2, 1}), Alias::View, 0, 0}};
    event->resultCounts = {-1};
    return event;
  }

  std::shared_ptr<Event> manyEvent() {
    auto event = std::make_shared<Event>();
    event->op = &many;
    event->gate = true;
    event->args.push_back({});
    for (ArgKind kind : {ArgKind::Bool, ArgKind::NumberInt, ArgKind::NumberBool})
      event->args.push_back(makeArg(kind, 1));
    for (double value : {HUGE_VAL, -HUGE_VAL, std::nan(""), -0.0, 1e-300, std::numeric_limits<double>::max()}) {
      event->args.push_back(makeArg(ArgKind::Double));
      event->args.back().scalar.d = value;
    }
    for (ArgKind kind : {ArgKind::IntList, ArgKind::BoolList, ArgKind::DoubleList, ArgKind::String, ArgKind::Opaque})
      event->args.push_back(makeArg(kind));
    size_t n = event->args.size();
    event->args[n - 5].ints = {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()};
    event->args[n - 4].ints = {1, 0};
    event->args[n - 3].doubles = {0.9, NAN};
    event->args[n - 3].varies = true;
    for (size_t i : {n - 5, n - 4, n - 3})
      event->args[i].count = 2;
    event->args[n - 2].string = "tanh";
    return event;
  }

  /// The text of `dump` with a part of it replaced and the checksum made right again.
  std::string edited(const std::string &from, const std::string &to) {
    std::string text = serialize(dump);
    size_t data = text.find("\"data\":") + 7;
    std::string payload = text.substr(data, text.rfind('}') - data);
    size_t at = payload.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    payload.replace(at, from.size(), to);
    return "{\"terra\":\"dump\",\"version\":1,\"checksum\":\"" + format::checksum(payload) + "\",\"data\":" + payload +
           "}";
  }

  static std::string errorOf(const std::string &text) {
    try {
      deserialize(text, "file.json");
    } catch (const std::runtime_error &error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(SerializeTest, round_trip_keeps_everything_that_prints) {
  Dump copy = deserialize(serialize(dump), "copy");
  EXPECT_EQ(toString(copy.graph), toString(dump.graph));
  EXPECT_EQ(toDot(copy.graph), toDot(dump.graph));
  EXPECT_EQ(serialize(copy), serialize(dump));
  ASSERT_EQ(copy.segments.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(toString(copy.segment(i)), toString(dump.segment(i)));
    EXPECT_EQ(copy.segments[i].deaths, dump.segments[i].deaths);
    EXPECT_EQ(copy.segments[i].walks, dump.segments[i].walks);
    EXPECT_EQ(copy.segments[i].compileError, dump.segments[i].compileError);
  }
}

TEST_F(SerializeTest, round_trip_keeps_what_does_not_print) {
  Dump copy = deserialize(serialize(dump), "copy");
  for (NodeId id = 2; id < dump.graph.size(); ++id) {
    const Event &a = *dump.graph[id].event, &b = *copy.graph[id].event;
    EXPECT_EQ(a.context, b.context);
    EXPECT_EQ(a.whole, b.whole);
    EXPECT_EQ(a.trace, b.trace);
    EXPECT_EQ(a.resultCounts, b.resultCounts);
    EXPECT_EQ(a.op->flags, b.op->flags);
    EXPECT_EQ(a.op->viewRule, b.op->viewRule);
    EXPECT_EQ(dump.graph.startsSegment(id), copy.graph.startsSegment(id));
    for (size_t i = 0; i < a.inputs.size(); ++i) {
      EXPECT_EQ(a.inputs[i].meta, b.inputs[i].meta);
      EXPECT_EQ(a.inputs[i].written, b.inputs[i].written);
    }
    for (size_t i = 0; i < a.results.size(); ++i) {
      EXPECT_EQ(a.results[i].storageBytes, b.results[i].storageBytes);
      EXPECT_EQ(a.results[i].alias, b.results[i].alias);
    }
    for (size_t i = 0; i < a.args.size(); ++i)
      EXPECT_TRUE(a.args[i].scalar.i == b.args[i].scalar.i || std::isnan(a.args[i].scalar.d)) << i;
  }
  EXPECT_EQ(dump.segment(0).numScalarFeeds, 1u);
  EXPECT_EQ(copy.segment(0).numOffsetFeeds, 1u);
}

TEST_F(SerializeTest, opaque_arguments_are_kept_in_words) {
  Dump copy = deserialize(serialize(dump, [](const Event &, uint32_t) { return "cuda:0"; }), "copy");
  EXPECT_THAT(toString(copy.graph), HasSubstr("<cuda:0>"));
}

TEST_F(SerializeTest, names_that_are_not_utf8_do_not_stop_a_dump) {
  dump.function = "st\xffp";
  EXPECT_THAT(deserialize(serialize(dump), "copy").function, testing::StartsWith("st"));
}

TEST_F(SerializeTest, every_truncated_file_is_refused) {
  std::string text = serialize(dump);
  for (size_t size = 0; size + 2 < text.size(); ++size)
    EXPECT_THAT(errorOf(text.substr(0, size)), testing::StartsWith("file.json: ")) << size;
}

TEST_F(SerializeTest, changed_bytes_are_refused_or_harmless) {
  const std::string text = serialize(dump);
  for (size_t at = 0; at < text.size(); at += 3)
    for (char c : {'0', '}', '"', ' ', '\xff'}) {
      std::string changed = text;
      changed[at] = c;
      if (std::string error = errorOf(changed); error == "no error")
        EXPECT_EQ(serialize(deserialize(changed, "copy")), text) << at;
      else
        EXPECT_THAT(error, testing::StartsWith("file.json: "));
    }
}

TEST_F(SerializeTest, edited_files_never_crash) {
  // As if someone had corrected the checksum: numbers and names become something else.
  std::string text = serialize(dump), payload = text.substr(text.find("\"data\":") + 7);
  payload.resize(payload.rfind('}'));
  for (size_t at = 0; at < payload.size(); at += 5)
    for (const char *piece : {"9", "-", "null", "[", "99999999999999999999", "true"}) {
      std::string changed = payload;
      changed.replace(at, 1, piece);
      try {
        Dump copy = deserialize("{\"terra\":\"dump\",\"version\":1,\"checksum\":\"" + format::checksum(changed) +
                                    "\",\"data\":" + changed + "}",
                                "file.json");
        for (size_t i = 0; i < copy.segments.size(); ++i)
          toString(copy.segment(i));
        toDot(copy.graph);
      } catch (const std::runtime_error &error) {
        EXPECT_THAT(error.what(), testing::StartsWith("file.json: "));
      }
    }
}

TEST_F(SerializeTest, errors_say_where_and_what) {
  EXPECT_THAT(errorOf(""), HasSubstr("empty"));
  EXPECT_THAT(errorOf("{}"), HasSubstr("not a dump of terra"));
  EXPECT_THAT(errorOf("[1]"), HasSubstr("not a dump of terra"));
  EXPECT_THAT(errorOf(std::string(100000, '[')), HasSubstr("nested too deeply"));
  EXPECT_THAT(errorOf("{\"terra\":\"dump\",\"version\":2}"), HasSubstr("has version 2, this program reads version 1"));
  EXPECT_THAT(errorOf("{\"terra\":\"dump\"}"), HasSubstr("\"version\" is missing"));
  EXPECT_THAT(errorOf(edited("\"f32\"", "\"f33\"")), HasSubstr("nodes[2].event.inputs[0].meta.dtype: \"f33\""));
  EXPECT_THAT(errorOf(edited("\"of\":0", "\"of\":3")), HasSubstr("nodes[2].event.results[0].of: 3 is out of range"));
  EXPECT_THAT(errorOf(edited("\"sizes\":[2,3]", "\"sizes\":[-2,3]")), HasSubstr("sizes[0]: -2 is out of range"));
  EXPECT_THAT(errorOf(edited("\"sizes\":[2,3]", "\"sizes\":[4294967296,4294967296]")), HasSubstr("too large"));
  EXPECT_THAT(errorOf(edited("\"next\":[3,4]", "\"next\":[3,5]")), HasSubstr("nodes[2].next[1]: 5 is out of range"));
  EXPECT_THAT(errorOf(edited("\"deaths\":[null,1,null]", "\"deaths\":[null]")), HasSubstr("the segment has 3 slots"));
  EXPECT_THAT(errorOf(edited("\"nodes\":[2]", "\"nodes\":[2,3]")), HasSubstr("does not continue the segment"));
  std::string text = serialize(dump);
  text.replace(text.find("Trainer"), 7, "Trained");
  EXPECT_THAT(errorOf(text), HasSubstr("wrong checksum"));
}

TEST_F(SerializeTest, files_are_written_and_read) {
  std::string path = testing::TempDir() + "serialize-test.json";
  save(dump, path);
  EXPECT_EQ(serialize(load(path)), serialize(dump));
  std::filesystem::remove(path);
  EXPECT_THROW(load(path), std::runtime_error);
  EXPECT_THROW(save(dump, testing::TempDir() + "no/such/folder/x"), std::runtime_error);
  EXPECT_THROW(load(testing::TempDir()), std::runtime_error);
}

TEST_F(SerializeTest, pictures_name_segments_and_lines) {
  std::string dot = toDot(dump.graph);
  EXPECT_THAT(dot, HasSubstr("train &lt;1&gt;.py:12 in &quot;forward&quot;"));
  EXPECT_THAT(dot, HasSubstr("<b>segment 1</b>"));
  EXPECT_THAT(dot, HasSubstr("n4 -> n4;"));
  EXPECT_THAT(dot, HasSubstr("segment 2 (gate"));
}

} // namespace
} // namespace terra::graph
