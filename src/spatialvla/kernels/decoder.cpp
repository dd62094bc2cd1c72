// The layers of a Gemma 2 decoder and its last norm: operators of this library one after another.
//
// Between them no interpreter runs, which for a small model takes longer than the products do.

#include "operators.h"
#include "panels.h"

#include <vector>

namespace {

// A packed weight. bits: of it, 16, 8 or 4. planes: as of `int8_product`, of what is multiplied with it.
struct Linear {
  long outputs, inputs, bits, planes;
  const void* weight;
  const float* scales;
};

// keys, values: (batch, key_heads, slots, head), written at the slots of the new tokens. bias: (batch, tokens, slots).
struct Layer {
  Linear qkv, o, gate_up, down;
  const Half *before_attention, *after_attention, *before_mlp, *after_mlp;
  Half *keys, *values;
  const Half* bias;
};

// wanted: of so many last tokens the last layer computes more than keys and values.
struct Pass {
  long batch, tokens, slots, size, heads, key_heads, head, inner, wanted;
  const Half *cos, *sin;  // (batch, tokens, head)
  const long* slot;       // (tokens)
  double eps, scale, softcap;
};

void product(const Linear& layer, const Half* x, Half* y, long rows, int threads) {
  const auto* bytes = (const uint8_t*)layer.weight;
  if (layer.bits == 16)
    bf16_product(x, (const Half*)layer.weight, nullptr, y, rows, layer.outputs, layer.inputs, threads);
  else if (layer.bits == 8)
    int8_product(x, bytes, layer.scales, nullptr, y, rows, layer.outputs, layer.inputs, layer.planes, 0, threads);
  else
    int4_product(x, bytes, nullptr, y, rows, layer.outputs, layer.inputs, layer.planes, 0, threads);
}

// x += added
void add(Half* x, const Half* added, long numbers) {
  for (long i = 0; i < numbers; i += 16) {
    const __mmask16 mask = first(numbers - i);
    store(x + i, mask, _mm512_add_ps(load(x + i, mask), load(added + i, mask)));
  }
}

// New keys or values (batch, key_heads, tokens, head), with these strides, to their slots.
void keep(const Half* from, const long* strides, Half* cache, const Pass& pass) {
  for (long b = 0; b < pass.batch; b++)
    for (long n = 0; n < pass.key_heads; n++)
      for (long t = 0; t < pass.tokens; t++)
        memcpy(cache + ((b * pass.key_heads + n) * pass.slots + pass.slot[t]) * pass.head,
               from + b * strides[0] + n * strides[1] + t * strides[2], pass.head * sizeof(Half));
}

// What the steps of a layer hand to each other.
struct Memory {
  std::vector<Half> normed, wide, q, k, mixed, projected, inner;

  explicit Memory(const Pass& pass) {
    const long rows = pass.batch * pass.tokens, heads = pass.heads + 2 * pass.key_heads;
    normed.resize(rows * pass.size);
    wide.resize(rows * std::max(heads * pass.head, 2 * pass.inner));
    q.resize(rows * pass.heads * pass.head);
    k.resize(rows * pass.key_heads * pass.head);
    mixed.resize(rows * pass.heads * pass.head);
    projected.resize(rows * pass.size);
    inner.resize(rows * pass.inner);
  }
};

// mixed (batch, wanted, heads · head): what the last tokens attend to.
void attend(const Layer& layer, const Pass& pass, long wanted, Memory& memory, int threads) {
  const long T = pass.tokens, H = pass.head, S = pass.slots, width = (pass.heads + 2 * pass.key_heads) * H;
  const long strides[3] = {T * width, H, width}, of_k[3] = {pass.key_heads * T * H, T * H, H};
  const Half *q = memory.wide.data(), *k = q + pass.heads * H, *v = k + pass.key_heads * H;
  rotate(q, pass.cos, pass.sin, memory.q.data(), pass.batch, pass.heads, T, H, strides, threads);
  rotate(k, pass.cos, pass.sin, memory.k.data(), pass.batch, pass.key_heads, T, H, strides, threads);
  keep(memory.k.data(), of_k, layer.keys, pass);
  keep(v, strides, layer.values, pass);
  const AttentionShape shape = {pass.batch,
                                pass.heads,
                                pass.key_heads,
                                wanted,
                                S,
                                H,
                                {pass.heads * T * H, T * H, H},
                                {pass.key_heads * S * H, S * H, H},
                                {pass.key_heads * S * H, S * H, H},
                                {T * S, 0, S}};
  const Half* its_q = memory.q.data() + (T - wanted) * H;
  const Half* bias = layer.bias + (T - wanted) * S;
  attention(its_q, layer.keys, layer.values, bias, memory.mixed.data(), &shape, pass.scale, pass.softcap, 0, threads);
}

// x: the tokens, changed in place. Where fewer are wanted they become the first rows of x.
void run(const Layer& layer, const Pass& pass, long wanted, Half* x, Memory& memory, int threads) {
  const long T = pass.tokens, D = pass.size, all = pass.batch * T, rows = pass.batch * wanted;
  Half *normed = memory.normed.data(), *wide = memory.wide.data(), *projected = memory.projected.data();
  rms_norm(x, layer.before_attention, normed, all, D, pass.eps, threads);
  product(layer.qkv, normed, wide, all, threads);
  attend(layer, pass, wanted, memory, threads);
  for (long b = 0; wanted < T && b < pass.batch; b++)
    memmove(x + b * wanted * D, x + ((b + 1) * T - wanted) * D, wanted * D * sizeof(Half));
  product(layer.o, memory.mixed.data(), projected, rows, threads);
  rms_norm(projected, layer.after_attention, normed, rows, D, pass.eps, threads);
  add(x, normed, rows * D);
  rms_norm(x, layer.before_mlp, normed, rows, D, pass.eps, threads);
  product(layer.gate_up, normed, wide, rows, threads);
  geglu(wide, memory.inner.data(), rows, pass.inner, threads);
  product(layer.down, memory.inner.data(), projected, rows, threads);
  rms_norm(projected, layer.after_mlp, normed, rows, D, pass.eps, threads);
  add(x, normed, rows * D);
}

}  // namespace

// x: (batch, tokens, size), which is changed. y: (batch, wanted, size).
extern "C" void decoder(
    Half* x, const Layer* layers, long count, const Half* last_norm, const Pass* pass, Half* y, int threads) {
  Memory memory(*pass);
  for (long i = 0; i < count; i++) run(layers[i], *pass, i + 1 < count ? pass->tokens : pass->wanted, x, memory, threads);
  rms_norm(x, last_norm, y, pass->batch * pass->wanted, pass->size, pass->eps, threads);
}
