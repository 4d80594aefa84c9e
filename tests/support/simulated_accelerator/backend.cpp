// An accelerator in host memory: tensors of a device of their own, whose operators run on the CPU.
//
// It finds what would fail on a real one: tensors that were left behind, views and copies in the wrong place, and more
// memory than a limit. Arguments of operators alias their memory; results are copied into memory of the device.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

using at::IntArrayRef;
using at::Tensor;

constexpr auto kDevice = c10::DeviceType::PrivateUse1;
constexpr size_t kRounding = 512;

// Memory

struct Memory {
  std::mutex mutex;
  size_t live = 0, peak = 0, limit = 0;  // bytes; a limit of 0 is none

  void take(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    TORCH_CHECK_WITH(OutOfMemoryError, limit == 0 || live + bytes <= limit, "simulated accelerator: out of memory. Tried to "
                     "allocate ", bytes, " bytes; ", live, " of ", limit, " are in use");
    live += bytes;
    peak = std::max(peak, live);
  }

  void give(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    live -= bytes;
  }
};

Memory memory;

struct Block {
  void* data;
  size_t bytes;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  memory.give(block->bytes);
  std::free(block->data);
  delete block;
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t count) override {
    const size_t bytes = (count + kRounding - 1) / kRounding * kRounding;
    const c10::Device device(kDevice, 0);
    if (bytes == 0) return {nullptr, device};
    memory.take(bytes);
    auto* block = new Block{std::aligned_alloc(64, bytes), bytes};
    return {block->data, block, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }
};

DeviceAllocator allocator;

// Host memory that copies to and from the device need not be waited for: pinned.

std::mutex pinned_mutex;
std::map<const char*, size_t> pinned_blocks;

void release_pinned(void* data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  pinned_blocks.erase(static_cast<const char*>(data));
  std::free(data);
}

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  const auto* place = static_cast<const char*>(data);
  auto after = pinned_blocks.upper_bound(place);
  if (after == pinned_blocks.begin()) return false;
  const auto& [start, bytes] = *std::prev(after);
  return place < start + bytes;
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t count) override {
    if (count == 0) return {nullptr, c10::Device(c10::kCPU)};
    void* data = std::aligned_alloc(64, (count + kRounding - 1) / kRounding * kRounding);
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned_blocks[static_cast<const char*>(data)] = count;
    return {data, data, &release_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_pinned; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }
};

PinnedAllocator pinned_allocator;

// What was run

std::mutex count_mutex;
std::map<std::string, int64_t> operator_counts;
int64_t issued = 0;  // all that the device was given to do

void count(const std::string& name) {
  std::lock_guard<std::mutex> lock(count_mutex);
  ++operator_counts[name];
  ++issued;
}

int64_t issued_now() {
  std::lock_guard<std::mutex> lock(count_mutex);
  return issued;
}

// Copies to pinned memory, which arrive when the host waits for an event after them, and not before.

struct Arriving {
  at::Tensor values, target;
  int64_t at;
};

std::mutex arriving_mutex;
std::vector<Arriving> arriving;

void arrive(int64_t until) {
  c10::InferenceMode may_write_to_any_tensor;
  std::lock_guard<std::mutex> lock(arriving_mutex);
  std::vector<Arriving> left;
  for (auto& entry : arriving) {
    if (entry.at <= until) {
      entry.target.copy_(entry.values);
    } else {
      left.push_back(std::move(entry));
    }
  }
  arriving = std::move(left);
}

// Devices and streams

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {kDevice, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream) const override { return getStream(getDevice()); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { wait_for_all(); }
  void synchronizeDevice(const c10::DeviceIndex) const override { wait_for_all(); }

  // An event is the number of operations before it.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new int64_t;
    *static_cast<int64_t*>(*event) = issued_now();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<int64_t*>(event); }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {
    if (event) arrive(*static_cast<int64_t*>(event));
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (!event) return;
    const auto at = *static_cast<int64_t*>(event);
    if (at == issued_now()) count("wait for all");  // the device has nothing left to do
    arrive(at);
  }

  static void wait_for_all() {
    count("wait for all");
    arrive(issued_now());
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    auto data = allocator.allocate(bytes);
    if (impl->nbytes() && bytes) std::memcpy(data.get(), impl->data(), std::min(impl->nbytes(), bytes));
    impl->set_data_ptr_noswap(std::move(data));
    impl->set_nbytes(bytes);
  }
};

// Tensors

bool is_ours(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == kDevice; }

// A tensor of the CPU with the same memory.
Tensor host_of(const Tensor& tensor) {
  if (!is_ours(tensor)) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), at::TensorOptions().dtype(tensor.dtype()));
}

Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   dtype.value_or(at::kFloat), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           dtype.value_or(at::kFloat));
}

// A copy on the device of a result that was computed on the CPU.
Tensor to_device(const Tensor& result) {
  if (!result.defined() || is_ours(result)) return result;
  auto copied = empty_strided(result.sizes(), result.strides(), result.scalar_type(), {}, {}, {});
  host_of(copied).copy_(result);
  return copied;
}

Tensor copy_from(const Tensor& self, const Tensor& target, bool non_blocking) {
  if (is_ours(self) && is_ours(target)) {
    count("copy");
  } else if (is_ours(target)) {
    count(non_blocking && is_pinned(self.data_ptr()) ? "copy from pinned" : "copy from host");
  } else if (non_blocking && is_pinned(target.data_ptr())) {
    count("copy to pinned");
    std::lock_guard<std::mutex> lock(arriving_mutex);
    arriving.push_back({host_of(self).clone(), target, issued_now()});
    std::memset(target.data_ptr(), 0xff, target.numel() * target.itemsize());  // read too early: not a number
    return target;
  } else {
    count("copy to host");
    arrive(issued_now());
  }
  host_of(target).copy_(host_of(self));
  return target;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& target) {
  target.resize_(self.sizes());
  return copy_from(self, target, false);
}

at::Scalar local_scalar(const Tensor& self) {
  count("_local_scalar_dense");
  return host_of(self).item();
}

Tensor strided_view(const Tensor& self, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(self.storage()),
                                                       self.key_set(), self.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset.value_or(self.storage_offset()));
  return view;
}

Tensor reshape_alias(const Tensor& self, IntArrayRef size, IntArrayRef stride) {
  return strided_view(self, size, stride, std::nullopt);
}

Tensor view(const Tensor& self, IntArrayRef size) {
  auto inferred = at::infer_size_dv(size, self.numel());
  auto stride = at::detail::computeStride(self.sizes(), self.strides(), inferred);
  TORCH_CHECK(stride.has_value(), "view: the size is not compatible with the strides; use reshape");
  return strided_view(self, inferred, *stride, std::nullopt);
}

Tensor unfold(const Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  dimension = at::maybe_wrap_dim(dimension, self.dim(), true);
  auto sizes = self.sizes().vec(), strides = self.strides().vec();
  sizes.push_back(size);
  strides.push_back(self.dim() ? strides[dimension] : 1);
  if (self.dim()) {
    sizes[dimension] = (sizes[dimension] - size) / step + 1;
    strides[dimension] *= step;
  }
  return strided_view(self, sizes, strides, std::nullopt);
}

const Tensor& resize(const Tensor& self, IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  const size_t bytes = (c10::multiply_integers(size) + self.storage_offset()) * self.itemsize();
  if (self.storage().nbytes() < bytes) at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(self.storage(), bytes);
  impl->set_sizes_contiguous(size);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

Tensor& set_source(Tensor& self, at::Storage source) {
  const int64_t length = source.nbytes() / self.itemsize();
  return set_storage(self, std::move(source), 0, {length}, {1});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// Operators

std::set<std::string> refused;  // operators that a CPU has and a GPU has not, with their overloads

void check_kernel(const c10::OperatorName& name) {
  TORCH_CHECK_NOT_IMPLEMENTED(!refused.count(toString(name)) && name.name.rfind("mkldnn::", 0) != 0, toString(name),
                              ": a GPU has no kernel for this operator");
}

bool takes_host_indices(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_" ||
         name == "aten::index_put" || name == "aten::_unsafe_index";
}

struct Call {
  const c10::OperatorHandle& op;
  std::vector<std::pair<Tensor, Tensor>> written;  // device, CPU

  Tensor argument(const Tensor& tensor, bool is_index) {
    if (!tensor.defined()) return tensor;
    TORCH_CHECK(is_ours(tensor) || tensor.dim() == 0 || is_index, op.schema().name(),
                ": expected all tensors on the simulated accelerator, found one of ", tensor.sizes(), " on ", tensor.device());
    return host_of(tensor);
  }
};

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  check_kernel(op.operator_name());
  count(schema.name());
  Call call{op, {}};
  const size_t length = schema.arguments().size();
  auto arguments = torch::jit::last(*stack, length);
  const size_t begin = stack->size() - length;
  std::vector<Tensor> given(length);
  for (size_t index = 0; index < length; ++index) {
    const c10::IValue value = arguments[index];
    auto& place = (*stack)[begin + index];
    const auto* aliasing = schema.arguments()[index].alias_info();
    if (value.isTensor()) {
      given[index] = value.toTensor();
      auto host = call.argument(given[index], false);
      if (aliasing && aliasing->isWrite() && is_ours(given[index])) {
        const bool is_empty_result = schema.arguments()[index].is_out() && given[index].numel() == 0;
        if (is_empty_result) host = at::empty({0}, host.options());  // the operator may resize it
        call.written.emplace_back(given[index], host);
      }
      place = host;
    } else if (value.isTensorList()) {
      std::vector<Tensor> hosts;
      for (const Tensor& tensor : value.toTensorVector()) hosts.push_back(call.argument(tensor, false));
      place = c10::IValue(hosts);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> hosts;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
        if (tensor.has_value() && tensor->defined()) {
          if (!is_ours(*tensor) && tensor->dim()) count("copy from host");
          if (tensor->scalar_type() == at::kBool || tensor->scalar_type() == at::kByte) count("aten::nonzero");
        }
        hosts.push_back(tensor.has_value() ? std::optional(call.argument(*tensor, takes_host_indices(schema.name())))
                                           : std::nullopt);
      }
      place = c10::IValue(hosts);
    } else if (value.isDevice()) {
      place = c10::IValue(c10::Device(c10::kCPU));
    }
  }
  op.callBoxed(stack);
  for (auto& [device, host] : call.written) {
    if (device.sizes() != host.sizes()) {
      device.resize_(host.sizes());
      host_of(device).copy_(host);
    }
  }
  const size_t count = schema.returns().size(), first = stack->size() - count;
  for (size_t index = 0; index < count; ++index) {
    auto& place = (*stack)[first + index];
    const auto* aliasing = schema.returns()[index].alias_info();
    if (place.isTensor()) {
      const Tensor result = place.toTensor();
      bool is_found = false;
      if (aliasing && aliasing->isWrite()) {
        for (size_t argument = 0; argument < length; ++argument) {
          const auto* from = schema.arguments()[argument].alias_info();
          if (from && given[argument].defined() && from->beforeSets() == aliasing->beforeSets()) {
            place = given[argument];
            is_found = true;
          }
        }
      }
      if (!is_found) {
        TORCH_CHECK(!aliasing, schema.name(), ": a view that the simulated accelerator does not know");
        place = to_device(result);
      }
    } else if (place.isTensorList()) {
      TORCH_CHECK(!aliasing, schema.name(), ": views that the simulated accelerator does not know");
      std::vector<Tensor> results;
      for (const Tensor& tensor : place.toTensorVector()) results.push_back(to_device(tensor));
      place = c10::IValue(results);
    }
  }
}

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  count("aten::convolution");
  TORCH_CHECK(is_ours(input) && is_ours(weight), "convolution: expected all tensors on the simulated accelerator");
  auto host_bias = bias.has_value() && bias->defined() ? std::optional(host_of(*bias)) : std::nullopt;
  return to_device(at::convolution(host_of(input), host_of(weight), host_bias, stride, padding, dilation, transposed,
                                   output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& gradient, const Tensor& input, const Tensor& weight,
                                                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef output_padding, int64_t groups,
                                                        std::array<bool, 3> mask) {
  count("aten::convolution_backward");
  const int64_t channels = gradient.size(1);
  auto [inputs, weights, bias] =
      at::convolution_backward(host_of(gradient), host_of(input), host_of(weight), IntArrayRef{channels}, stride, padding,
                               dilation, transposed, output_padding, groups, mask);
  return {to_device(inputs), to_device(weights), to_device(bias)};
}

int64_t attention_choice(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                         std::optional<double>, bool) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &attention_choice)
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &local_scalar);
  library.impl("as_strided", &strided_view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("view", &view);
  library.impl("unfold", &unfold);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage", &set_source);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
  // Its default kernel, for devices without one of their own, needs memory that GPUs do not need.
  library.impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

// Mixed precision, with the lists of operators that CUDA has.

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER_PRECISION(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_LOWER_PRECISION_FP(LOWER_PRECISION)
  AT_FORALL_FP32(FLOAT32)
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  c10::SetAllocator(kDevice, &allocator);
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  module.def("live_bytes", [] { return memory.live; });
  module.def("peak_bytes", [] { return memory.peak; });
  module.def("reset_peak", [] { memory.peak = memory.live; });
  module.def("set_limit", [](size_t bytes) { memory.limit = bytes; });
  module.def("refuse", [](std::set<std::string> names) { refused = std::move(names); });
  module.def("synchronize", [] { Guard::wait_for_all(); });
  module.def("counts", [] {
    std::lock_guard<std::mutex> lock(count_mutex);
    return operator_counts;
  });
  module.def("reset_counts", [] {
    std::lock_guard<std::mutex> lock(count_mutex);
    operator_counts.clear();
  });
}
