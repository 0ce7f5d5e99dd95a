# Completion of spelt for fish: copy it to ~/.config/fish/completions/spelt.fish.
function __spelt_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l current (commandline -ct)
    for line in ($program complete -- $words "$current" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$current"
            case :commands
                __fish_complete_command
            case '*'
                echo $line
        end
    end
end
complete -c spelt -f -a '(__spelt_complete)'
