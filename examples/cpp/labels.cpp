// labels DIR LIBRARY TEXT…                     prints a line of JSON for each text and each output of a task
// labels DIR LIBRARY --pairs TEXT TEXT_PAIR …  the same for pairs of texts
// DIR was exported with --with-tokenizer; LIBRARY is the shared library of onnxruntime-extensions.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

int main(int count, char** given) try {
  const size_t columns = count > 3 && std::string(given[3]) == "--pairs" ? 2 : 1;
  const int first = 2 + static_cast<int>(columns);
  if (count <= first || (count - first) % columns)
    throw std::invalid_argument("expected DIR LIBRARY TEXT… or DIR LIBRARY --pairs TEXT TEXT_PAIR …");
  const std::filesystem::path folder = given[1], library = given[2];
  std::ifstream file(folder / "adapterdrop.json");
  if (!file) throw std::runtime_error("no adapterdrop.json in " + folder.string());
  const auto manifest = nlohmann::json::parse(file);
  const std::string model = manifest.at("variants").at(0).at("model");
  const std::string graph = manifest.at("text_graphs").value(model, "");
  if (graph.empty()) throw std::runtime_error("no graph from texts: export the folder with --with-tokenizer");
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::SessionOptions options;
  options.RegisterCustomOpsLibrary(library.c_str());
  Ort::Session session(env, (folder / graph).c_str(), options);

  // Where padding counts, the logits of a text depend on longer ones in its batch.
  const int step = manifest.value("padding_counts", false) ? static_cast<int>(columns) : count - first;
  for (int start = first; start < count; start += step) {
    std::vector<std::vector<const char*>> texts(columns);
    for (int index = start; index < start + step; ++index) texts[(index - first) % columns].push_back(given[index]);
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<Ort::Value> feeds;
    for (const auto& column : texts) {
      const int64_t rows = column.size();
      feeds.push_back(Ort::Value::CreateTensor(allocator, &rows, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING));
      feeds.back().FillStringTensor(column.data(), column.size());
    }
    std::vector<std::string> outputs;
    for (const auto& task : manifest.at("tasks")) outputs.insert(outputs.end(), task.at("outputs").begin(), task.at("outputs").end());
    std::vector<const char*> inputs = {"text", "text_pair"}, names;
    for (const auto& output : outputs) names.push_back(output.c_str());
    const auto results = session.Run(Ort::RunOptions(), inputs.data(), feeds.data(), columns, names.data(), names.size());

    auto result = results.begin();
    for (const auto& task : manifest.at("tasks")) {
      for (const auto& output : task.at("outputs")) {
        const size_t width = result->GetTensorTypeAndShapeInfo().GetElementCount() / texts[0].size();
        const float* row = (result++)->GetTensorData<float>();
        for (const char* text : texts[0]) {
          const std::vector<float> values(row, row + width);
          row += width;
          nlohmann::json line = {{"text", text}, {"task", task.at("name")}, {"output", output}, {"values", values}};
          if (task.at("head") == "classification") {
            const auto best = std::max_element(values.begin(), values.end());
            double sum = 0;
            for (const float value : values) sum += std::exp(value - *best);
            line["label"] = task.at("labels").at(best - values.begin());
            line["score"] = 1 / sum;
          }
          std::cout << line << "\n";
        }
      }
    }
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
