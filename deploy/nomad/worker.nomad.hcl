# A worker that runs always: nomad job run worker.nomad.hcl
# Put your own name for IMAGE. The variable nomad/jobs/convolab-worker has redis_url and wake_token.
job "convolab-worker" {
  type = "service"

  group "worker" {
    count = 1

    network {
      port "http" {}
    }

    service {
      provider = "nomad"
      name     = "convolab-worker"
      port     = "http"

      # /health, not /ready: a Redis that is away does not call for a restart.
      check {
        type     = "http"
        path     = "/health"
        interval = "20s"
        timeout  = "5s"

        check_restart {
          limit = 3
          grace = "60s"
        }
      }
    }

    task "worker" {
      driver = "docker"

      # Nomad's own default is 5 s, which is shorter than any grace of ours, and the most that a
      # client allows is 30 s (max_kill_timeout).
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        image = "IMAGE"
        args  = ["run", "--wake"]
        ports = ["http"]
      }

      env {
        PORT                    = "${NOMAD_PORT_http}"
        CONVOLAB_APP            = "app.jobs:handlers"
        CONVOLAB_QUEUES         = "audio-generation,dialogue-generation"
        CONVOLAB_SHUTDOWN_GRACE = "20s"
        CONVOLAB_WAKE_MODE      = "background"
      }

      template {
        destination = "secrets/convolab.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/convolab-worker" }}
          REDIS_URL={{ .redis_url }}
          CONVOLAB_WAKE_TOKEN={{ .wake_token }}
          {{ end }}
        EOT
      }

      resources {
        cpu    = 200
        memory = 512
      }
    }
  }
}
