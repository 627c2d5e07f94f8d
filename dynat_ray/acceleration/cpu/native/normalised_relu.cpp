// Batch normalisation with fixed statistics and a ReLU in one pass over memory, and their gradient;
// normalised.py says when. Images lie in memory as (B, H, W, C); C is a multiple of 16.

#include "formats.h"

namespace {

template <class Format>
void normalise(const typename Format::Number* features, const float* scale, const float* shift,
               typename Format::Number* outputs, int64_t pixels, int64_t channels, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      const int64_t place = pixel * channels + channel;
      const Vector values = Format::load(features + place) * load_floats(scale + channel) +
                            load_floats(shift + channel);
      Format::store(outputs + place, values < 0.0f ? Vector{} : values);  // what is no number stays
    }
  }
}

template <class Format>
void backpropagate(const typename Format::Number* upstream,
                   const typename Format::Number* outputs, const float* scale,
                   typename Format::Number* gradient, int64_t pixels, int64_t channels,
                   int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      const int64_t place = pixel * channels + channel;
      const Vector values = Format::load(upstream + place) * load_floats(scale + channel);
      Format::store(gradient + place,
                    Format::load(outputs + place) <= 0.0f ? Vector{} : values);
    }
  }
}

}  // namespace

#define FOR_FORMAT(name, Format)                                                                  \
  void normalise_##name(const void* features, const float* scale, const float* shift,             \
                        void* outputs, int64_t pixels, int64_t channels, int threads) {           \
    normalise<Format>(static_cast<const Format::Number*>(features), scale, shift,                 \
                      static_cast<Format::Number*>(outputs), pixels, channels, threads);          \
  }                                                                                               \
  void backpropagate_##name(const void* upstream, const void* outputs, const float* scale,        \
                            void* gradient, int64_t pixels, int64_t channels, int threads) {      \
    backpropagate<Format>(static_cast<const Format::Number*>(upstream),                           \
                          static_cast<const Format::Number*>(outputs), scale,                     \
                          static_cast<Format::Number*>(gradient), pixels, channels, threads);     \
  }

extern "C" {
FOR_FORMAT(float32, Float32)
#ifdef __AVX512BF16__
FOR_FORMAT(bfloat16, BFloat16)
#endif
}
