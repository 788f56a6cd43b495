# docker buildx bake -f docker/bake.hcl            builds all images with bills of materials
# docker buildx bake -f docker/bake.hcl trainer    builds one
variable "REGISTRY" { default = "longhaul" }
variable "VERSION" { default = "0.1.0" }
variable "PYTHON_IMAGE" { default = "python:3.11.14-slim-bookworm" }

group "default" { targets = ["service", "trainer"] }

target "common" {
  context = "."
  args = { PYTHON_IMAGE = PYTHON_IMAGE, VERSION = VERSION }
  attest = ["type=sbom", "type=provenance,mode=max"]
}

target "service" {
  inherits = ["common"]
  dockerfile = "docker/service.Dockerfile"
  name = image
  matrix = {
    image = ["ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth", "ingest-ray", "corpus-ray"]
  }
  args = { IMAGE = image }
  tags = ["${REGISTRY}/${image}:${VERSION}"]
}

target "trainer" {
  inherits = ["common"]
  dockerfile = "docker/trainer.Dockerfile"
  tags = ["${REGISTRY}/trainer:${VERSION}"]
}
